"""What a fuzzer calls: bytes in, nothing out, an `AssertionError` for what must not be.

Any bytes are an input. The first few choose the set-up (side, limits, compression, cuts), and
whether the rest is a stream as it stands or a list of instructions from which a stream is
written that is nearly right: mutations of those get deep where mutations of masked frames do not.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

from tests.helpers import frame, mask_with
from trioweb.config import Deflate
from trioweb.protocol.deflate import Agreement
from trioweb.types import Side

from .framers import Change, check_both
from .handshakes import ACCEPT, check_agreeing, check_client, check_server, check_texts
from .proxies import check_forwarded, check_proxy_header
from .streams import Setup, check_memory, check_round_trip, check_stream, cut

__all__ = ["LARGEST", "TARGETS", "WORDS", "deflated", "frame_as"]

#: Longer inputs are slow, and say nothing that shorter ones do not.
LARGEST = 1024
_MASK = b"\x01\x80\x3c\xff"


class _Input:
    """Reads an input piece by piece; beyond its end there are zeros, or nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data[:LARGEST]
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        found = self.take(1)
        return found[0] if found else 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def sizes(self) -> Sequence[int]:
        """Sizes of pieces from one byte: two sizes, small and large; or single bytes."""
        both = self.byte()
        return (1 + (both & 15), 1 + 16 * (both >> 4)) if both else (1,)


def _agreement(given: _Input) -> Agreement:
    flags, windows = given.byte(), given.byte()
    return Agreement(bool(flags & 1), bool(flags & 2), 8 + windows % 8, 8 + (windows >> 4) % 8)


def deflated(data: bytes, how: int) -> bytes:
    """Compress as a peer may: strategy, window, block types, and an end of either kind."""
    stream = zlib.compressobj(
        *((0, 1, 6, 9)[how & 3], zlib.DEFLATED, -(9, 11, 13, 15)[how >> 2 & 3], 9),
        (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED)[how >> 4 & 3],
    )
    done = stream.compress(data)
    if how & 0x40:
        done += stream.flush(zlib.Z_FULL_FLUSH)
    if how & 0x80:
        return done + stream.flush(zlib.Z_FINISH) + b"\0"
    return (done + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frame_as(first: int, payload: bytes, mask: bytes | None, *, form: int | None = None) -> bytes:
    """Write a frame from its first byte on; ``form`` 126 or 127 makes its length as long."""
    size = len(payload)
    if form is None:
        form = size if size < 126 else 126 if size < 2**16 else 127
    head = bytes([first, form | (0x80 if mask else 0)])
    if form > 125:
        head += size.to_bytes(2 if form == 126 else 8, "big")
    return head + mask + mask_with(mask, payload) if mask else head + payload


def _written(given: _Input, mask: bytes | None, limit: int) -> bytes:
    """Write frames from instructions: first byte, what is done to the payload, its size."""
    frames = []
    while given:
        first, how, size = given.byte(), given.byte(), given.byte()
        payload = given.take(size & 0x7F) * (1 + 31 * (size >> 7))
        if how & 2:  # exactly what is allowed, or one more
            payload = (payload * limit)[: limit + (how >> 2 & 1)]
        if how & 1 and first & 15 < 8:
            payload = deflated(payload, given.byte())
        form = 126 + (how >> 3 & 1) if how & 0x30 == 0x30 else None
        wrong_way = how & 0xC0 == 0xC0
        frames.append(
            frame_as(first, payload, (None if mask else _MASK) if wrong_way else mask, form=form)
        )
    return b"".join(frames)[: 4 * LARGEST]


def _setup(given: _Input) -> tuple[Setup, int]:
    flags, limits = given.byte(), given.byte()
    setup = Setup(
        Side.CLIENT if flags & 1 else Side.SERVER,
        (1, 125, 126, 1024)[limits & 3],
        (1, 2, 8, 1000)[limits >> 2 & 3],
        _agreement(given) if flags & 2 else None,
        streams=bool(flags & 4),
    )
    return setup, flags


def machine(data: bytes) -> None:
    """Frames, right and wrong, against the reference."""
    given = _Input(data)
    setup, flags = _setup(given)
    sizes, most = given.sizes(), (flags >> 3 & 3) or None
    mask = _MASK if setup.side is Side.SERVER else None
    stream = _written(given, mask, setup.max_message) if flags & 0x20 else given.rest()
    if flags & 0xC0 == 0xC0:
        check_memory(setup, cut(stream, sizes), max(sizes))
    else:
        check_stream(setup, stream, sizes, most=most)


def framers(data: bytes) -> None:
    """Frames, right and wrong: the native framer against the pure one."""
    given = _Input(data)
    setup, flags = _setup(given)
    sizes, most = given.sizes(), (flags >> 3 & 3) or None
    how = given.byte()
    changes = []
    if how & 1:
        changes.append(Change(given.byte(), (0, 1, 126, math.inf)[how >> 1 & 3]))
    if how & 8:
        changes.append(Change(given.byte()))
    mask = _MASK if setup.side is Side.SERVER else None
    stream = _written(given, mask, setup.max_message) if flags & 0x20 else given.rest()
    check_both(setup, stream, sizes, changes=changes, most=most)


def deflate(data: bytes) -> None:
    """Compressed messages against the reference; offers and answers; both ends together."""
    given = _Input(data)
    setup, flags = _setup(given)
    if flags & 0x60 == 0x60:
        options = Deflate(
            window_bits=9 + given.byte() % 7,
            max_window_bits=9 + given.byte() % 7,
            context_takeover=bool(flags & 1),
        )
        check_agreeing(given.rest().decode("latin-1").split(","), options)
        return
    agreement = setup.agreement or _agreement(given)
    sizes = given.sizes()
    if flags & 0x60 == 0x40:
        messages: list[tuple[str | bytes, bool | None]] = []
        while given:
            how, size = given.byte(), given.byte()
            content = given.take(size) * (1 + (how & 15))
            message = content if how & 16 else content.decode("utf-8", "replace")
            messages.append((message, (None, True, False, True)[how >> 5 & 3]))
        check_round_trip(
            agreement, messages, side=setup.side, fragment=1 + 7 * sizes[0], sizes=sizes
        )
        return
    # The bytes are DEFLATE data themselves, in frames that are right.
    setup = Setup(setup.side, setup.max_message, setup.max_fragments, agreement, setup.streams)
    mask = _MASK if setup.side is Side.SERVER else None
    stream = b""
    continues = False
    while given:
        how = given.byte()
        fin = not how & 0x80
        payload = given.take(how & 0x7F)
        opcode = 0 if continues else 1 + (how & 1)
        stream += frame(opcode, payload, fin=fin, rsv=0 if continues else 4, mask=mask)
        continues = not fin
    check_stream(setup, stream, sizes, most=(flags >> 3 & 3) or None)


def handshake(data: bytes) -> None:
    """Requests, answers, and the texts that go into them."""
    given = _Input(data)
    kind, sizes = given.byte(), given.sizes()
    rest = given.rest()
    if kind & 16:
        rest = b"".join(LINES[byte % len(LINES)] for byte in rest[:60]) + b"\r\n"
    begin = _BEGINNINGS[kind >> 2 & 3]
    if kind & 3 == 3:
        check_texts(rest.decode("latin-1"))
        with_more = rest.decode("utf-8", "surrogateescape")
        check_texts(with_more.encode("utf-8", "replace").decode())
    elif kind & 1:
        check_client((begin[1] + rest), sizes)
    else:
        check_server((begin[0] + rest), sizes)


def proxy(data: bytes) -> None:
    """The two ways in which a proxy names the client."""
    given = _Input(data)
    kind, sizes = given.byte(), given.sizes()
    if kind & 1:
        check_proxy_header(_PROXY_BEGINNINGS[kind >> 1 & 3] + given.rest(), sizes)
    else:
        check_forwarded(given.rest().decode("latin-1").split("\n"))


_PROXY_BEGINNINGS = (
    b"",
    b"PROXY TCP4 ",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
)
_UPGRADE = (
    b"Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
_SWITCH = (
    "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n"
).encode()
#: What stands before the rest of an input: a request, and an answer.
_BEGINNINGS = (
    (b"", b""),
    (b"GET / HTTP/1.1\r\n", b"HTTP/1.1 101 Switching\r\n"),
    (b"GET /a?b=c HTTP/1.1\r\n" + _UPGRADE, _SWITCH),
    (b"GET /a?b=c HTTP/1.1\r\n" + _UPGRADE, b"HTTP/1.1 404 Not Found\r\n"),
)

#: Lines of heads, right and wrong, for inputs that choose among them.
LINES = (
    *(b"GET / HTTP/1.1\r\n", b"GET /a HTTP/1.0\r\n", b"POST / HTTP/1.1\r\n", b"\r\n"),
    *(b"HEAD / HTTP/0.9\r\n", b"HEAD /a HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1\r\n"),
    *(b"HTTP/1.1 101 Switching\r\n", b"HTTP/1.1 103 Early\r\n", b"HTTP/1.0 200\r\n"),
    *(b"Host: a\r\n", b"host: b\r\n", b"Host: a, b\r\n", b"Host: \xe4\r\n", b"Host:\r\n"),
    *(b"Upgrade: websocket\r\n", b"upgrade: h2c, WebSocket\n", b"Upgrade: foo\r\n"),
    *(b"Connection: Upgrade\r\n", b"connection: close\r\n", b"Connection: a, upgrade\r\n"),
    *(b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Version: 8, 13\r\n"),
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n",
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode(),
    *(b"Sec-WebSocket-Accept: dGhl\r\n", b"Sec-WebSocket-Protocol: chat\r\n"),
    *(b"Sec-WebSocket-Protocol: a, a\r\n", b"Sec-WebSocket-Protocol: b\r\n"),
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"Sec-WebSocket-Extensions: x; y=z, permessage-deflate; client_max_window_bits\r\n",
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b" folded\r\n", b"X: \0\r\n", b"X : a\r\n", b"X\r\n", b": a\r\n", b"X: \xa0\r\n"),
    *(b"Cookie: a=b; c\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"Upgrade: \xa0websocket\r\n"),
)

TARGETS: dict[str, Callable[[bytes], None]] = {
    "machine": machine,
    "framers": framers,
    "handshake": handshake,
    "deflate": deflate,
    "proxy": proxy,
}

_FRAMES = [
    *(b"\x81\x7e\x00\x7e", b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", b"\x88\x02\x03\xe8"),
    *(b"\xf4\x8f\xbf\xbf", b"\xed\xa0\x80", b"\xe2\x82\xac", b"\x03\xf6", b"\x0f\xa0"),
]
#: What a fuzzer would take long to find: it puts these into its inputs.
WORDS: dict[str, Sequence[bytes]] = {
    "machine": _FRAMES,
    "framers": _FRAMES,
    "deflate": [
        *(b"\x00\x00\x00\xff\xff", b"\x01\x00\x00\xff\xff", b"\x03\x00", b"\x4b\x04\x00"),
        *(b"\x02\x00", b"\xed\xa0\x80", b"permessage-deflate", b"client_max_window_bits"),
        *(b"server_max_window_bits=", b"server_no_context_takeover", b"client_no_context_takeover"),
    ],
    "proxy": [
        *(b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"192.0.2.1 ", b"::ffff:192.0.2.1 "),
        *(b" 65535", b"\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\0\x0c", b"\x21\x21\0\x24"),
        *(b"\x20\0\0\0", b"for=", b'for="[::1]:80"', b";proto=https", b";host=a.b", b", "),
        *(b"10.0.0.1", b"unknown", b"_hidden", b"127.0.0.1", b'"\\"', b"\n", b"[2001:db8::1]"),
    ],
    "handshake": [
        *(b"\r\n\r\n", b"\r\n", b": ", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"HEAD ", b"OPTIONS * "),
        *(
            b"CONNECT ",
            b"Host: ",
            b"Upgrade: ",
            b"websocket",
            b"Connection: ",
            b"close",
            b"http://",
        ),
        *(b"wss://", b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Version: 13", b"Cookie: a=b; c"),
        *(b"Sec-WebSocket-Protocol: ", b"chat", b"Sec-WebSocket-Extensions: ", b"%80", b"\xa0"),
        *(b"permessage-deflate", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"[::1]"),
        *(b"HTTP/1.1 103 Early\r\n\r\n", b"HTTP/1.1 302 Found", b"0\r\n\r\n", b"5\r\nhello\r\n"),
        b"Sec-WebSocket-Accept: " + ACCEPT.encode(),
    ],
}
