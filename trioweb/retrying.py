"""Which ends are final, and how long to wait after the others."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from typing import cast

import trio

from .config import Backoff
from .errors import (
    ConnectionClosedByUs,
    ConnectionEnded,
    HandshakeRejected,
    ProtocolError,
    ProxyError,
    TriowebError,
)
from .host import current_host
from .types import CloseCode, Headers

__all__ = ["FAILURES", "Retries", "fraction", "is_terminal"]

#: What a connection that does not come about, or breaks, is told by. Anything else is a fault of
#: the program, which trying again does not mend.
FAILURES = (TriowebError, OSError, trio.BrokenResourceError, trio.EndOfChannel, trio.TooSlowError)

#: One end did what the other will never accept; the same again would end in the same way.
_TERMINAL = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.MANDATORY_EXTENSION,
    }
)

#: Of the client's errors those that pass (RFC 9110, 15.5.9; RFC 8470; RFC 6585, 4).
_PASSING = frozenset({408, 425, 429})


def is_terminal(error: BaseException) -> bool:
    """Tell whether connecting again after an error makes no sense.

    That is so after the close codes 1002, 1003, 1007 to 1010, 3500 to 3999 and 4500 to 4999, after
    one's own `aclose`, when the server or a proxy answers with 4xx (but 408, 425 and 429), and
    after whatever is no failure of a connection, such as a `ValueError` for the URL. An exception
    group is terminal if one of its parts is.
    """
    if isinstance(error, BaseExceptionGroup):
        parts = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return any(map(is_terminal, parts))
    if isinstance(error, ConnectionClosedByUs):
        return True
    if isinstance(error, (ConnectionEnded, ProtocolError)):
        code = error.code
        return code in _TERMINAL or 3500 <= code <= 3999 or 4500 <= code <= 4999
    if isinstance(error, HandshakeRejected):
        return _is_final(error.status)
    if isinstance(error, ProxyError) and error.response is not None:
        return _is_final(error.response.status)
    return not isinstance(error, FAILURES)


def _is_final(status: int) -> bool:
    return 400 <= status <= 499 and status not in _PASSING


class Retries:
    """Counts the failures in a row, and decides after each of them."""

    def __init__(self, backoff: Backoff) -> None:
        self.failures = 0
        self._backoff = backoff

    def failed(self, error: Exception, lasted: float = 0) -> float:
        """Return the seconds to wait after a failure; raise it if it is final, or one too many.

        ``lasted`` is how long the connection was open.
        """
        if lasted >= self._backoff.reset:
            self.failures = 0
        self.failures += 1
        if is_terminal(error) or self.failures >= self._backoff.attempts:
            raise error
        wait = self._backoff.bound(self.failures) * self._fraction()
        # On top of what the server asks for: it asks the same of all.
        return wait + min(_asked_for(error), self._backoff.retry_after)

    def _fraction(self) -> float:
        if self._backoff.random is not None:
            return self._backoff.random.random()
        return fraction()


def fraction() -> float:
    """Draw a number between 0 and 1 from the machine's source of random bytes."""
    return int.from_bytes(current_host.get().token_bytes(4), "big") / 2**32


def _asked_for(error: Exception) -> float:
    """Return the seconds of a ``Retry-After`` (RFC 9110, 10.2.3), 0 without a legible one."""
    headers = Headers()
    if isinstance(error, HandshakeRejected):
        headers = error.headers
    elif isinstance(error, ProxyError) and error.response is not None:
        headers = error.response.headers
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return int(text) if len(text) < 10 else math.inf
    try:
        date = parsedate_to_datetime(text)
        return max(0, date.timestamp() - current_host.get().now())
    except (ValueError, TypeError, OverflowError):
        return 0
