"""The contract of a `trioweb.abc.Codec`."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from ...abc import Codec
from ...types import Message
from .promises import plain, require, shown

__all__ = ["check_codec"]

#: What opens a level of nesting in JSON, Python, XML, MessagePack, CBOR and bencode.
_OPENINGS: tuple[Message, ...] = (
    *("[", "{", "(", "-", '{"a":', "[[", "<a>"),
    *(b"[", b'{"a":', b"(", b"l", b"\x91", b"\x81\xa1a", b"\x81", b"\xa1aa", b"\xc1", b"\x9f"),
)
_DEPTH = 100_000
_HUGE = 2**20
#: Headers that announce far more than follows, in MessagePack and CBOR; and numbers too large.
_BOASTS: tuple[Message, ...] = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    *(b"\x9b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\xff" * 8),
    *("1e999999999", "9" * _HUGE, "0" * _HUGE, " " * _HUGE, '"' * _HUGE, b"\x00" * _HUGE),
)
_CUTS = 16
_NOISES = 64


class _Inexpressible:
    """A value that no format has a form for."""

    __slots__ = ()

    def __reduce__(self) -> str:
        raise TypeError("this cannot be expressed")


def check_codec(
    codec: Codec,
    values: Iterable[Any],
    *,
    refused: Iterable[Any] = (),
    malformed: Iterable[Message] = (),
) -> None:
    """Check a codec's promises with values that it must carry.

    - ``decode(encode(value)) == value`` for each of ``values``; a message is ``str`` or ``bytes``.
    - No state between calls: a value gives the same message each time, whatever was encoded,
      decoded or refused meanwhile, and decoding a message twice gives two separate values.
    - Neither changes its argument.
    - ``encode`` raises `TypeError` for each of ``refused``, for a bare ``object()``, and for
      a list and a dictionary with one inside.
    - ``decode`` raises `ValueError` for each of ``malformed``. For whatever else a peer may send
      it returns a value or raises `ValueError`, and nothing else: truncated and altered messages,
      messages of the other type, noise, nesting 100,000 deep, headers that announce gigabytes.

    Not checked: how long a call takes, and how much memory. Raises `AssertionError` for a broken
    promise, `ValueError` if there are no ``values``. Each must have ``==`` and a deep copy.
    """
    values = list(values)
    if not values:
        raise ValueError("check_codec needs values that the codec can carry")
    messages = [_carry(codec, value) for value in values]
    _repeat(codec, values, messages, "other values were encoded")
    for value in (*refused, object(), _Inexpressible(), [object()], {"a": object()}):
        _refuse(codec.encode, "encode", value, TypeError)
    _repeat(codec, values, messages, "encode had refused a value")
    for message in malformed:
        _refuse(codec.decode, "decode", message, ValueError)
    for message in _rubbish(messages):
        _survive(codec, message)
    _repeat(codec, values, messages, "rubbish was decoded")


def _carry(codec: Codec, value: Any) -> Message:
    """Carry a value there and back; return its message."""
    before = copy.deepcopy(value)
    message = _encode(codec, value)
    require(value == before, f"encode changed its argument, {shown(before)}, to {shown(value)}")
    again = _encode(codec, value)
    require(
        _same(again, message),
        f"encode gave two messages for {shown(value)}: {shown(message)}, then {shown(again)}",
    )
    one, other = _decode(codec, message, value), _decode(codec, message, value)
    if isinstance(value, (list, dict, set, bytearray)):
        require(
            one is not other and one is not value,
            f"decode gave the same object twice for {shown(message)}: who changes one changes both",
        )
    return message


def _encode(codec: Codec, value: Any) -> Message:
    try:
        message = plain("encode", codec.encode(value))
    except Exception as error:
        raise AssertionError(f"encode({shown(value)}) raised {error!r}") from error
    require(
        isinstance(message, (str, bytes)),  # pyright: ignore[reportUnnecessaryIsInstance]  # that is the check
        f"encode({shown(value)}) gave {shown(message)}, which is neither str nor bytes",
    )
    return message


def _decode(codec: Codec, message: Message, value: Any) -> Any:
    try:
        decoded = plain("decode", codec.decode(message))
    except Exception as error:
        raise AssertionError(
            f"decode raised {error!r} for {shown(message)}, the message of {shown(value)}"
        ) from error
    require(decoded == value, f"{shown(value)} came back as {shown(decoded)}")
    return decoded


def _repeat(codec: Codec, values: Sequence[Any], messages: Sequence[Message], after: str) -> None:
    """Do it all again, in another order: nothing may have changed."""
    for value, message in reversed(list(zip(values, messages, strict=True))):
        again = _encode(codec, value)
        require(
            _same(again, message),
            f"{shown(value)} gave another message after {after}: "
            f"{shown(again)} instead of {shown(message)}",
        )
        _decode(codec, message, value)


def _refuse(
    function: Callable[[Any], Any], name: str, argument: Any, refusal: type[Exception]
) -> None:
    call = f"{name}({shown(argument)})"
    try:
        result = plain(name, function(argument))
    except refusal:
        return
    except Exception as error:
        raise AssertionError(f"{call} raised {error!r}, not a {refusal.__name__}") from error
    raise AssertionError(f"{call} gave {shown(result)} instead of raising {refusal.__name__}")


def _survive(codec: Codec, message: Message) -> None:
    try:
        codec.decode(message)
    except ValueError:
        pass
    except Exception as error:
        raise AssertionError(
            f"decode({shown(message)}), {len(message):,} long, raised "
            f"{type(error).__name__}, which is no ValueError: {shown(str(error))}"
        ) from error


def _same(one: Message, other: Message) -> bool:
    return type(one) is type(other) and one == other


def _rubbish(messages: Iterable[Message]) -> Generator[Message]:
    """Yield what a peer may send instead of these messages."""
    chance = random.Random(0)  # noqa: S311 - chance that can be repeated
    for message in messages:
        size = len(message)
        for cut in {0, 1, size // 2, size - 1, *(chance.randrange(size + 1) for _ in range(_CUTS))}:
            if cut < size:
                yield message[:cut]
                yield message[cut + 1 :]
        # One that is doubled, one of the other type, and one with a byte altered here and there.
        if isinstance(message, str):
            yield message + message
            yield message.encode(errors="replace")
        else:
            yield message + message
            yield message.decode("latin-1")
            for _ in range(min(_CUTS, size)):
                altered = bytearray(message)
                altered[chance.randrange(size)] = chance.randrange(256)
                yield bytes(altered)
    yield from ("", b"", "\x00", b"\x00", "\ufeff", "\U0010ffff", "null", "nan", "=", "&&")
    for _ in range(_NOISES):
        noise = chance.randbytes(chance.randint(1, 64))
        yield noise
        yield noise.decode("latin-1")
    yield from _BOASTS
    for opening in _OPENINGS:
        yield opening * _DEPTH
