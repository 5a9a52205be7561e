"""The plug-ins in memory: small, and enough for many tests.

`check_codec` and `check_observer` hold for them; a transport in memory is what a `VirtualNetwork`
has.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias, cast
from urllib.parse import unquote_plus, urlencode

from ..abc import Connection, Observer
from ..types import Close, Message, Request, Response

__all__ = ["CollectingObserver", "FormCodec", "ObservedEvent"]

#: What happened, the path of its request (None if it was not legible), and the details.
ObservedEvent: TypeAlias = tuple[str, str | None] | tuple[str, str | None, int | str]


class FormCodec:
    """Flat dictionaries of text, as web forms write them: a text message such as ``move=up&by=2``.

    A recording of it is easy to read, and it has no options. Nothing but ``str`` goes in and out.
    """

    def encode(self, value: Any, /) -> str:
        """Return the message for a dictionary of text; raises `TypeError` for anything else."""
        if not isinstance(value, dict):
            raise TypeError(f"a form is a dict, not {type(value).__name__}")
        form: dict[str, str] = {}
        for name, text in cast("dict[object, object]", value).items():
            if not (isinstance(name, str) and isinstance(text, str)):
                raise TypeError(f"a form holds nothing but text, not {(name, text)!r:.80}")
            form[name] = text
        try:
            return urlencode(form)
        except UnicodeEncodeError as error:
            raise TypeError(f"a form holds what UTF-8 can express: {error}") from None

    def decode(self, message: Message, /) -> dict[str, str]:
        """Return the dictionary in a message; raises `ValueError` that names the bad field."""
        if not isinstance(message, str):
            raise ValueError("a form is a text message")  # noqa: TRY004 - as `Codec.decode` says
        form: dict[str, str] = {}
        for field in message.split("&") if message else []:
            name, equals, text = field.partition("=")
            try:
                name = unquote_plus(name, errors="strict")
                text = unquote_plus(text, errors="strict")
            except UnicodeDecodeError:
                raise ValueError(f"the field {field!r:.80} is not UTF-8") from None
            if not equals or name in form:
                why = "comes twice" if equals else "has no value"
                raise ValueError(f"the field {name!r:.80} {why}")
            form[name] = text
        return form


class CollectingObserver(Observer):
    """Keeps what happened to connections, as tuples that a test compares.

    ``("opened", path)``, ``("ended", path, code)``, ``("failed", path, repr(error))`` and
    ``("answered", path, status)``, of which the last so many; ``dropped`` counts those before.
    """

    def __init__(self, limit: int = 1000) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.dropped = 0
        self._events: deque[ObservedEvent] = deque(maxlen=limit)

    @property
    def events(self) -> list[ObservedEvent]:
        """What happened, the oldest first."""
        return list(self._events)

    def opened(self, connection: Connection) -> None:
        """Keep that a connection is there."""
        self._keep(("opened", connection.request.path))

    def ended(self, connection: Connection, close: Close) -> None:
        """Keep how it ended."""
        self._keep(("ended", connection.request.path, int(close.code)))

    def handler_failed(self, connection: Connection, error: BaseException) -> None:
        """Keep what its handler raised."""
        self._keep(("failed", connection.request.path, f"{error!r:.200}"))

    def answered(self, request: Request | None, response: Response) -> None:
        """Keep how a plain request was answered."""
        self._keep(("answered", None if request is None else request.path, response.status))

    def _keep(self, event: ObservedEvent) -> None:
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)
