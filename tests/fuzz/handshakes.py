"""What must hold for the opening handshake, either end, and any bytes, cut anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

import h11

from trioweb.config import Deflate, Limits
from trioweb.errors import HandshakeInvalid, HandshakeRejected
from trioweb.protocol.deflate import NAME, answer, check_answer, offer
from trioweb.protocol.handshake import BadRequest, ClientHandshake, ServerHandshake
from trioweb.protocol.http import check_host, check_lines, check_target
from trioweb.types import Headers, Request, Response, Side

from .streams import cut

__all__ = [
    "ACCEPT",
    "LIMITS",
    "check_agreeing",
    "check_client",
    "check_request_reading",
    "check_server",
    "check_texts",
]

LIMITS = Limits(max_headers=1024, max_header_lines=20, max_response_body=64)
_NONCE = bytes(range(16))
_KEY = base64.b64encode(_NONCE)
#: What a server answers to the key that our client sends here.
ACCEPT = base64.b64encode(
    hashlib.sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
).decode()
_OFFERED = ("chat", "superchat")

_Outcome: TypeAlias = tuple[object, ...]


def _same(outcomes: Sequence[_Outcome], data: bytes) -> _Outcome:
    assert all(one == outcomes[0] for one in outcomes), f"{data!r}: {outcomes}"
    return outcomes[0]


# --- a server --------------------------------------------------------------------------------


def check_server(data: bytes, *cuttings: Sequence[int]) -> _Outcome:
    """A stream becomes one request, one refusal, or nothing, the same however it is cut."""
    return _same([_serve(data, sizes) for sizes in ((), *cuttings)], data)


def _serve(data: bytes, sizes: Sequence[int]) -> _Outcome:
    handshake = ServerHandshake(LIMITS, client_address=("192.0.2.1", 4711))
    fed = b""
    for piece in cut(data, sizes):
        held = len(fed.lstrip(b"\r\n"))
        assert held <= LIMITS.max_headers, f"{held} bytes are held"
        fed += piece
        handshake.feed(piece)
        outcome = _answer(handshake, fed)
        if outcome is not None:
            return outcome
    handshake.feed(b"")
    outcome = _answer(handshake, fed)
    assert outcome is not None, "the end of the stream is no end"
    return outcome


def _answer(handshake: ServerHandshake, fed: bytes) -> _Outcome | None:
    """Ask for the request, and answer it as a server would; None when it is not whole yet."""
    try:
        request = handshake.next_request()
    except EOFError:
        return ("left",)
    except BadRequest as error:
        return _refuse(handshake, error, fed)
    if request is None:
        return None
    check_request_reading(request)
    assert fed.endswith(handshake.trailing_data)
    head = fed[: len(fed) - len(handshake.trailing_data)].lstrip(b"\r\n")
    assert len(head) <= LIMITS.max_headers
    assert request.client_address == ("192.0.2.1", 4711)
    if request.upgrade:
        _check_is_upgrade(head)
        _accept(handshake, head)
    else:
        _check_response(handshake.respond(Response.make(200, "hello")), fed, 200)
    return ("request", request.method, request.target, request.headers.pairs(), request.upgrade)


def _refuse(handshake: ServerHandshake, why: BadRequest, fed: bytes) -> _Outcome:
    status = why.response.status
    assert 400 <= status <= 599, status
    assert str(why).isprintable(), "words for the log that are not fit for it"
    _check_response(handshake.respond(why.response), fed, status)
    if why.request is not None:
        check_request_reading(why.request)
    return ("refused", status, why.response.body)


def _accept(handshake: ServerHandshake, head: bytes) -> None:
    chosen = answer(handshake.extensions, Deflate())
    names = handshake.subprotocols
    reply = handshake.accept(
        subprotocol=names[-1] if names else None,
        headers=[("X-Answer", "42")],
        extensions=[] if chosen is None else [chosen[1]],
    )
    # Another implementation than the one that wrote it reads it.
    lines = reply.decode("ascii").split("\r\n")
    assert lines[0].startswith("HTTP/1.1 101 ")
    assert lines[-2:] == ["", ""]
    key = re.search(rb"(?im)^sec-websocket-key:[ \t]*(\S*)", head)
    assert key is not None
    digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}" in lines


def _check_response(wire: bytes, fed: bytes, status: int) -> None:
    """An answer is one whole HTTP response, after which the connection closes."""
    peer = h11.Connection(h11.CLIENT)
    method = fed.lstrip(b"\r\n").partition(b" ")[0]
    # Whatever the peer meant to ask, the answer has a body unless it said HEAD legibly.
    is_head = method == b"HEAD" and wire.endswith(b"\r\n\r\n")
    peer.send(h11.Request(method="HEAD" if is_head else "GET", target="/", headers=[("Host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(wire)
    head = peer.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == status
    assert (b"connection", b"close") in list(head.headers) or status == 426
    body = b""
    while isinstance(event := peer.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert peer.trailing_data == (b"", False)


def _check_is_upgrade(head: bytes) -> None:
    """Read a head that was taken for an upgrade once more, by hand (RFC 6455, 4.2.1)."""
    line, *lines = [one.removesuffix(b"\r") for one in head.split(b"\n")]
    method, target, version = line.split(b" ")
    assert method == b"GET"
    assert re.fullmatch(rb"HTTP/1\.[1-9]", version), version  # "1.1 or higher"
    assert target.isascii()
    found = _fields(lines)
    (host,) = found[b"host"]
    assert re.fullmatch(rb"[^\s,/?#@\\\x00-\x20\x7f-\xff]+", host), host
    assert len(found[b"sec-websocket-key"]) == 1
    assert len(base64.b64decode(found[b"sec-websocket-key"][0], validate=True)) == 16
    assert found[b"sec-websocket-version"] == [b"13"]
    for name, token in (b"upgrade", b"websocket"), (b"connection", b"upgrade"):
        assert token in _elements(found[name])
    assert b"transfer-encoding" not in found
    assert not any(value.strip(b"0") for value in found.get(b"content-length", []))


def _fields(lines: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """Read header lines as strictly as can be: what was accepted has no others."""
    assert lines[-2:] == [b"", b""]
    found: dict[bytes, list[bytes]] = {}
    for one in lines[:-2]:
        name, colon, value = one.partition(b":")
        assert colon
        assert re.fullmatch(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+", name), name
        assert b"\0" not in value
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return found


def _elements(values: Sequence[bytes]) -> list[bytes]:
    """Read a list; empty elements count for nothing (RFC 9110, 5.6.1.2)."""
    elements = (element.strip(b" \t") for element in b",".join(values).lower().split(b","))
    return [element for element in elements if element]


def _check_is_switch(head: bytes) -> None:
    """Read an answer that was taken for an acceptance once more, by hand (RFC 6455, 4.1)."""
    # A client unfolds lines, where a server refuses them (RFC 9112, 5.2).
    unfolded = re.sub(rb"\r?\n[ \t]+", b" ", head)
    lines = [one.removesuffix(b"\r") for one in unfolded.split(b"\n")]
    # Interim answers stand before it.
    begin = max(at for at, line in enumerate(lines) if line.startswith(b"HTTP/1.1 101"))
    found = _fields(lines[begin + 1 :])
    assert _elements(found[b"upgrade"]) == [b"websocket"]
    assert b"upgrade" in _elements(found[b"connection"])
    assert found[b"sec-websocket-accept"] == [ACCEPT.encode()]
    assert len(found.get(b"sec-websocket-protocol", [])) <= 1


def check_request_reading(request: Request) -> None:
    """Whatever a request holds, looking at it raises nothing, and its repr hides the query."""
    assert isinstance(request.path, str)
    assert all(isinstance(one, str) for pair in request.query.items() for one in pair)
    assert all(isinstance(one, str) for pair in request.cookies.items() for one in pair)
    assert repr(request).isprintable()
    headers = request.headers
    for name in headers:
        assert name in headers
        assert headers.get_all(name)
        assert headers[name] == ", ".join(headers.get_all(name))
        assert all(token == token.strip() for token in headers.tokens(name))
    assert Headers.from_bytes(headers.to_bytes()).pairs() == headers.pairs()


# --- a client --------------------------------------------------------------------------------


def check_client(data: bytes, *cuttings: Sequence[int]) -> _Outcome:
    """An answer is an acceptance, a rejection, invalid, or not whole, however it is cut."""
    return _same([_connect(data, sizes) for sizes in ((), *cuttings)], data)


def _connect(data: bytes, sizes: Sequence[int]) -> _Outcome:
    offers = [offer(Deflate())]
    handshake = ClientHandshake(
        *("localhost", "/chat"),
        subprotocols=_OFFERED,
        extensions=offers,
        limits=LIMITS,
        nonce=_NONCE,
    )
    assert _KEY in handshake.request()
    fed = 0
    for piece in [*cut(data, sizes), b""]:
        fed += len(piece)
        handshake.feed(piece)
        try:
            accepted = handshake.next_response()
        except HandshakeRejected as error:
            return _rejected(error)
        except HandshakeInvalid as error:
            return ("invalid", bool(str(error)))
        if accepted is not None:
            assert accepted.subprotocol in (None, *_OFFERED)
            with suppress(ValueError):
                check_answer(accepted.extensions, Deflate())
            assert data[:fed].endswith(handshake.trailing_data)
            _check_is_switch(data[: fed - len(handshake.trailing_data)])
            return ("accepted", accepted.headers.pairs(), accepted.subprotocol)
        if handshake.rejection is None and piece:
            assert fed <= LIMITS.max_headers, f"{fed} bytes are held"
    raise AssertionError("the end of the stream is no end")


def _rejected(why: HandshakeRejected) -> _Outcome:
    assert 200 <= why.status <= 999
    assert len(why.body) <= LIMITS.max_response_body
    assert "\r" not in str(why.headers.pairs())
    return ("rejected", why.status, why.headers.pairs(), why.body)


# --- header values ---------------------------------------------------------------------------


def check_agreeing(texts: Sequence[str], options: Deflate) -> None:
    """Offers and answers of any form: an agreement within our bounds, or a plain no."""
    answered = answer(texts, options)
    if answered is not None:
        agreement, said = answered
        assert agreement.server_max_window_bits <= options.window_bits
        assert agreement.client_max_window_bits <= options.max_window_bits
        assert re.fullmatch(r"[a-z_0-9=; -]+", said)
        if not options.context_takeover:
            assert agreement.server_no_context_takeover
            assert agreement.client_no_context_takeover
    with suppress(ValueError):
        found = check_answer(texts, options)
        assert (found is None) is (not texts)
        if found is not None:
            assert found.server_max_window_bits <= options.max_window_bits
            assert found.client_max_window_bits <= options.window_bits
            assert texts[0].strip().lower().startswith(NAME)
    # What we offer a server of ours answers so that we take it, and both say the same.
    ours = answer([offer(options)], options)
    assert ours is not None
    theirs = check_answer([ours[1]], options)
    assert theirs is not None
    server = ours[0]
    # Whoever reads is ready for all that the other one may write.
    assert theirs.server_max_window_bits >= server.server_max_window_bits
    assert server.client_max_window_bits >= theirs.client_max_window_bits
    for writer, reader, side in (server, theirs, Side.SERVER), (theirs, server, Side.CLIENT):
        assert reader.takes_over(side) or not writer.takes_over(side)


def _value_error(check: Callable[[str], object], text: str) -> ValueError | None:
    try:
        check(text)
    except UnicodeError:
        raise  # a ValueError too, but nobody means to raise it
    except ValueError as error:
        return error
    return None


def check_texts(text: str) -> None:
    """What checks a user's words raises `ValueError` or lets them pass, fit for the wire."""
    checks: Iterable[Callable[[str], object]] = (
        check_host,
        check_target,
        lambda value: check_lines([("X-Any", value)]),
        lambda name: check_lines([(name, "any")]),
    )
    for check in checks:
        wrong = _value_error(check, text)
        if wrong is None:
            assert "\r" not in text
            assert "\n" not in text
            assert "\0" not in text
            text.encode("latin-1")
    if not text.startswith("/"):
        return  # no target of a request that came over the wire
    request = Request(text, Headers([("Cookie", text), ("X-Any", text)]))
    assert isinstance(request.path, str)
    assert isinstance(request.query, dict)
    assert isinstance(request.cookies, dict)
