"""How hypothesis draws set-ups, streams that are right, streams that nearly are, and cuts."""

from __future__ import annotations

import zlib

from hypothesis import strategies as st

from tests.helpers import CLOSE, CONTINUATION, MASK, PING, PONG, frame
from trioweb.protocol.deflate import Agreement
from trioweb.types import Side

from .streams import Setup
from .targets import frame_as

__all__ = [
    "agreements",
    "cuts",
    "messages",
    "mutated",
    "odd_frames",
    "setups",
    "streams",
    "valid_streams",
]

agreements = st.builds(
    Agreement, st.booleans(), st.booleans(), st.integers(8, 15), st.integers(8, 15)
)
setups = st.builds(
    Setup,
    st.sampled_from(Side),
    st.sampled_from([1, 125, 126, 1000, 70_000]),
    st.sampled_from([1, 2, 8, 1000]),
    st.none() | agreements,
    st.booleans(),
)
#: Sizes of pieces, for `tests.fuzz.streams.cut`.
cuts = st.lists(st.integers(1, 40), max_size=4)

_texts = st.text(max_size=60) | st.text("aé€😀", max_size=100)
messages = _texts | st.binary(max_size=150) | st.integers(0, 66_000).map(bytes)


@st.composite
def _compressed(draw: st.DrawFn, data: bytes) -> bytes:
    """Compress as any peer may, each message by itself."""
    level = draw(st.sampled_from([0, 1, 6, 9]))
    strategy = draw(st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED]))
    stream = zlib.compressobj(level, zlib.DEFLATED, -draw(st.integers(9, 15)), 9, strategy)
    at = draw(st.integers(0, len(data)))
    done = stream.compress(data[:at])
    if draw(st.booleans()):
        done += stream.flush(draw(st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])))
    done += stream.compress(data[at:])
    if draw(st.booleans()):
        return done + stream.flush(zlib.Z_FINISH) + b"\0"  # RFC 7692, 7.2.3.4
    return (done + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def _control(draw: st.DrawFn, mask: bytes | None) -> bytes:
    return frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), mask=mask)


@st.composite
def _one(draw: st.DrawFn, setup: Setup, mask: bytes | None) -> bytes:
    """Write a message in fragments, with control frames between them."""
    limit = min(setup.max_message, 2000)
    message = draw(messages | st.sampled_from([0, 1]).map(lambda more: bytes(limit + more)))
    data = message.encode() if isinstance(message, str) else message
    opcode, rsv = 1 if isinstance(message, str) else 2, 0
    if setup.agreement is not None and draw(st.booleans()):
        data, rsv = draw(_compressed(data)), 4
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    wire = b""
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        last = begin == (cuts or [0])[-1] and end == len(data)
        wire += frame(opcode, data[begin:end], fin=last, rsv=rsv, mask=mask)
        if last:
            break
        opcode, rsv = CONTINUATION, 0
        if draw(st.booleans()):
            wire += draw(_control(mask))
    return wire


@st.composite
def valid_streams(draw: st.DrawFn, setup: Setup) -> bytes:
    """Write a stream without a fault, but for messages beyond a limit."""
    mask = MASK if setup.side is Side.SERVER else None
    wire = b"".join(
        draw(_one(setup, mask)) if draw(st.booleans()) else draw(_control(mask))
        for _ in range(draw(st.integers(0, 4)))
    )
    if draw(st.booleans()):
        code = draw(st.sampled_from([1000, 1001, 1014, 3000, 4999]) | st.integers(0, 65535))
        reason = draw(st.text(max_size=20)).encode()
        wire += frame(CLOSE, code.to_bytes(2, "big") + reason, mask=mask)
    return wire


@st.composite
def odd_frames(draw: st.DrawFn, setup: Setup) -> bytes:
    """Write one frame of any kind, whose size is often at a limit, and its header seldom right."""
    mask = MASK if setup.side is Side.SERVER else None
    sizes = st.sampled_from([0, 1, 125, 126, setup.max_message]).map(lambda size: size % 2000)
    size = max(0, draw(sizes) + draw(st.integers(-1, 1)))
    first = draw(st.sampled_from([0x81, 0x82, 0x80, 0x00, 0x01]) | st.integers(0, 255))
    payload = draw(st.sampled_from([b"\0", b"a", "é".encode()])) * size
    if first & 0x40 and draw(st.booleans()):
        payload = draw(_compressed(payload))
    forms = [126 if len(payload) < 2**16 else 127, 127]
    form = draw(st.none() | st.sampled_from(forms))
    return frame_as(first, payload[:size], mask, form=form)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Flip bits of a stream; drop, repeat and insert bytes; end it early."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if not found:
            break
        at = draw(st.integers(0, len(found) - 1))
        match draw(st.sampled_from(["flip", "drop", "repeat", "insert", "end"])):
            case "flip":
                found[at] ^= 1 << draw(st.integers(0, 7))
            case "drop":
                del found[at : at + draw(st.integers(1, 8))]
            case "repeat":
                found[at:at] = found[at : at + draw(st.integers(1, 8))]
            case "insert":
                found[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                del found[at:]
    return bytes(found)


@st.composite
def streams(draw: st.DrawFn, setup: Setup) -> bytes:
    """Write anything: random bytes, a right stream, one that is nearly right."""
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        return b"".join(draw(st.lists(odd_frames(setup), min_size=1, max_size=6)))
    valid = draw(valid_streams(setup))
    if kind == 2:
        return valid + draw(odd_frames(setup))
    return valid if kind == 3 else draw(mutated(valid))
