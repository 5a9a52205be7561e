"""Patterns of paths: literal segments, and parameters that have a type."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from keyword import iskeyword
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote
from uuid import UUID

__all__ = ["CONVERTERS", "Converter", "Parameter", "Pattern", "split_path"]

#: Makes a value of a segment's text, or raises `ValueError` where it is none: no match then.
Converter: TypeAlias = Callable[[str], object]

_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}:]*))?\}")
#: Segments that mean another place; no parameter is one. (A ``str`` may hold ``../x``, by ``%2F``.)
_DOTS = (".", "..")


def _int(text: str) -> int:
    return int(_matched(_INTEGER, text))


def _float(text: str) -> float:
    value = float(_matched(_NUMBER, text))
    if math.isinf(value):
        raise ValueError("too large")
    return value


def _uuid(text: str) -> UUID:
    return UUID(_matched(_UUID, text))


def _matched(form: re.Pattern[str], text: str) -> str:
    if not form.fullmatch(text):
        raise ValueError(f"not of the form {form.pattern}: {text!r}")
    return text


def _path(text: str) -> str:
    """Stand for the rest of a path; `Pattern.match` looks at its segments."""
    return text


#: What a parameter may be: one segment (``str`` unless told), or ``path``, all that are left.
CONVERTERS: Mapping[str, Converter] = {
    "str": str,
    "int": _int,
    "float": _float,
    "uuid": _uuid,
    "path": _path,
}

#: For a converter those that take whatever it takes; one of a user's own is within ``str``.
_WIDER: Mapping[Converter, Sequence[Converter]] = {
    _int: (_float, str),
    _float: (str,),
    _uuid: (str,),
    str: (),
}
_RANKS: Mapping[Converter, int] = {_float: 2, str: 3, _path: 4}
#: Those that never take the same; two of a user's own may.
_APART = ({_uuid, _int}, {_uuid, _float})


class Parameter(NamedTuple):
    """A segment of a pattern that stands for many."""

    name: str
    convert: Converter

    @property
    def rank(self) -> int:
        """How wide it is: what is within another has a smaller one."""
        return _RANKS.get(self.convert, 1)


class Pattern:
    """A path with parameters: ``/rooms/{name}``, ``/users/{id:int}``, ``/files/{rest:path}``.

    A parameter is a whole segment. It matches neither an empty one nor ``.`` and ``..``. ``path``
    comes last and matches one or more, but none with an encoded slash in it.
    """

    __slots__ = ("names", "segments", "text")

    def __init__(self, text: str, segments: Sequence[str | Parameter]) -> None:
        #: As it was written.
        self.text = text
        self.segments = tuple(segments)
        #: Of the parameters, in order.
        self.names = [one.name for one in segments if isinstance(one, Parameter)]
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"path {text!r} has two parameters {name!r}")

    @classmethod
    def parse(cls, text: str, converters: Mapping[str, Converter]) -> Pattern:
        """Read a pattern; raises `ValueError` for a bad one."""
        if not text.startswith("/"):
            raise ValueError(f"path {text!r} must start with /")
        segments = [_segment(text, part, converters) for part in text[1:].split("/")]
        if any(_is_tail(one) for one in segments[:-1]):
            raise ValueError(f"path {text!r} goes on behind a parameter for all that is left")
        return cls(text, segments)

    @property
    def is_literal(self) -> bool:
        """Whether it is one path."""
        return not self.names

    @property
    def order(self) -> list[int]:
        """What to sort by, so that of two patterns the narrower one comes first."""
        return [one.rank if isinstance(one, Parameter) else 0 for one in self.segments]

    def under(self, prefix: Pattern) -> Pattern:
        """Return this pattern below another, whose own place is that of ``/``."""
        front = prefix.segments
        if _is_tail(front[-1]):
            raise ValueError(f"nothing can be mounted below {prefix.text!r}")
        if self.segments == ("",):
            return prefix
        if front[-1] == "":
            front = front[:-1]
        return Pattern(prefix.text.removesuffix("/") + self.text, front + self.segments)

    def match(self, path: Sequence[str]) -> dict[str, Any] | None:
        """Return the parameters in a path that was split, or None if it is another."""
        values: dict[str, Any] = {}
        for index, one in enumerate(self.segments):
            if index >= len(path):
                return None
            part = path[index]
            if isinstance(one, str):
                if one != part:
                    return None
                continue
            if not part or part in _DOTS:
                return None
            if one.convert is _path:
                rest = path[index:]
                if any(part in _DOTS or "/" in part for part in rest):
                    return None
                values[one.name] = "/".join(rest)
                return values
            try:
                values[one.name] = one.convert(part)
            except ValueError:
                return None
        return values if len(path) == len(self.segments) else None

    def is_ambiguous_with(self, other: Pattern) -> bool:
        """Whether a path may match both, and neither is the narrower one."""
        within = contains = True
        for one, two in zip(self.segments, other.segments, strict=False):
            if _is_tail(one) or _is_tail(two):
                within, contains = within and _is_tail(two), contains and _is_tail(one)
                return within == contains
            if _are_apart(one, two):
                return False
            within = within and _is_within(one, two)
            contains = contains and _is_within(two, one)
        return len(self.segments) == len(other.segments) and within == contains


def split_path(path: str) -> tuple[str, ...] | None:
    """Return the segments of a path as sent, each decoded by itself; None if it is none.

    A slash that is encoded (``%2F``) stays inside its segment. Escapes that are not UTF-8 make
    no path.
    """
    if not path.startswith("/"):
        return None
    try:
        return tuple([unquote(part, errors="strict") for part in path[1:].split("/")])
    except UnicodeDecodeError:
        return None


def _segment(text: str, part: str, converters: Mapping[str, Converter]) -> str | Parameter:
    if "{" not in part and "}" not in part:
        return part
    found = _PARAMETER.fullmatch(part)
    if found is None:
        raise ValueError(f"path {text!r}: {part!r} is neither text nor a {{parameter}}")
    name, kind = found[1], found[2]
    if not name.isidentifier() or iskeyword(name):
        raise ValueError(f"path {text!r}: {name!r} is no name for a parameter")
    convert = converters.get("str" if kind is None else kind)
    if convert is None:
        raise ValueError(f"path {text!r}: there is no type {kind!r}, only {', '.join(converters)}")
    return Parameter(name, convert)


def _is_tail(segment: str | Parameter) -> bool:
    return isinstance(segment, Parameter) and segment.convert is _path


def _takes(parameter: Parameter, text: str) -> bool:
    try:
        parameter.convert(text)
    except ValueError:
        return False
    return bool(text) and text not in _DOTS


def _are_apart(one: str | Parameter, two: str | Parameter) -> bool:
    """Whether no text matches both."""
    if isinstance(one, str):
        return one != two if isinstance(two, str) else not _takes(two, one)
    if isinstance(two, str):
        return not _takes(one, two)
    return {one.convert, two.convert} in _APART


def _is_within(one: str | Parameter, two: str | Parameter) -> bool:
    """Whether all that matches the first, and may match the second, does."""
    if isinstance(one, str) or isinstance(two, str):
        return isinstance(one, str)
    return one.convert is two.convert or two.convert in _WIDER.get(one.convert, (str,))
