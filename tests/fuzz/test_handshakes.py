"""Any bytes as a request, as an answer, and as what stands in their headers."""

from __future__ import annotations

import string
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import KEY
from trioweb.config import Deflate

from .handshakes import ACCEPT, check_agreeing, check_client, check_server, check_texts
from .strategies import cuts, mutated
from .targets import LINES

#: Every byte by itself.
BYTES = (1,)

# --- requests --------------------------------------------------------------------------------


def _any_case(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([text, text.lower(), text.upper(), text.title()])


@st.composite
def _lists(draw: st.DrawFn, name: str, token: str) -> list[str]:
    """Write a list with this token among others, in one line or in several."""
    others = draw(st.lists(st.sampled_from(["keep-alive", "foo", "h2c", ""]), max_size=2))
    at = draw(st.integers(0, len(others)))
    tokens = [*others[:at], draw(_any_case(token)), *others[at:]]
    if draw(st.booleans()):
        return [f"{name}: {one}" for one in tokens]
    between = draw(st.sampled_from([",", ", ", " ,\t"]))
    return [f"{name}:{draw(st.sampled_from(['', ' ', '  ']))}{between.join(tokens)} "]


@st.composite
def upgrades(draw: st.DrawFn) -> bytes:
    """Write a request that is right, though perhaps unusual (RFC 6455, 4.2.1)."""
    target = draw(
        st.sampled_from(["/", "/chat?a=%20&b", "//x", "http://b:1/y", "ws://b"])
        | st.text(string.ascii_letters + "/?%&=~", max_size=20).map(lambda text: "/" + text)
    )
    lines = [
        *draw(_lists("Upgrade", "websocket")),
        *draw(_lists("Connection", "upgrade")),
        f"{draw(_any_case('Host'))}: {draw(st.sampled_from(['a', 'a:80', '[::1]', '192.0.2.1']))}",
        f"{draw(_any_case('Sec-WebSocket-Key'))}:\t{KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    if draw(st.booleans()):
        lines += ["Sec-WebSocket-Protocol: a, b", "sec-websocket-protocol:c"]
    if draw(st.booleans()):
        offers = st.sampled_from(["x-foo; a=1", "permessage-deflate", "permessage-deflate; a"])
        lines += [f"Sec-WebSocket-Extensions: {draw(offers)}"]
    if draw(st.booleans()):
        lines += ["Cookie: a=b; c", "X-Any: \x80\xff", "Content-Length: 0"]
    lines = draw(st.permutations(lines))
    end = draw(st.sampled_from(["\r\n", "\n"]))
    head = end.join([f"GET {target} HTTP/1.1", *lines, "", ""])
    return draw(st.sampled_from([b"", b"\r\n"])) + head.encode("latin-1")


@given(upgrades(), cuts, st.binary(max_size=20))
def test_a_right_request_is_accepted(request: bytes, sizes: Sequence[int], behind: bytes) -> None:
    kind, *_, upgrade = check_server(request + behind, sizes, BYTES)
    assert (kind, upgrade) == ("request", True)


@given(st.data(), upgrades(), cuts)
def test_a_request_that_is_nearly_right(
    data: st.DataObject, request: bytes, sizes: Sequence[int]
) -> None:
    check_server(data.draw(mutated(request)), sizes, BYTES)


@st.composite
def other_lines(draw: st.DrawFn, head: bytes) -> bytes:
    """Drop lines of a head, repeat them, and put others in."""
    *lines, _, rest = head.split(b"\n")
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["drop", "repeat", "insert", "replace"])):
            case "drop" if len(lines) > 1:
                del lines[at]
            case "repeat":
                lines.insert(draw(st.integers(0, len(lines))), lines[at])
            case "insert":
                lines.insert(at + 1, draw(st.sampled_from(LINES)).removesuffix(b"\n"))
            case _:
                lines[at] = draw(st.sampled_from(LINES)).removesuffix(b"\n")
    return b"\n".join([*lines, b"\r", rest])


@given(st.data(), upgrades(), cuts)
def test_a_request_with_other_lines(
    data: st.DataObject, request: bytes, sizes: Sequence[int]
) -> None:
    check_server(data.draw(other_lines(request)), sizes, BYTES)


@given(st.binary(max_size=300), cuts)
def test_any_bytes_are_a_request_or_none(request: bytes, sizes: Sequence[int]) -> None:
    check_server(request, sizes, BYTES)
    check_server(b"GET / HTTP/1.1\r\n" + request, sizes, BYTES)


# --- answers ---------------------------------------------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Write an acceptance or a rejection, perhaps after interim answers."""
    early = draw(st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]))
    if draw(st.booleans()):
        body, framing = draw(
            st.sampled_from(
                [
                    (b"hello", "Content-Length: 5\r\n"),
                    (b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"),
                    (b"hello" * 20, ""),
                ]
            )
        )
        status = draw(st.sampled_from(["200 OK", "302 Found", "404 Not Found", "503"]))
        return early + f"HTTP/1.1 {status}\r\nLocation: /b\r\n{framing}\r\n".encode() + body
    lines = [
        f"{draw(_any_case('Upgrade'))}: {draw(_any_case('websocket'))}",
        f"Connection: {draw(_any_case('upgrade'))}",
        f"Sec-WebSocket-Accept: {ACCEPT}",
        *draw(st.sampled_from([[], ["Sec-WebSocket-Protocol: chat"]])),
        *draw(st.sampled_from([[], ["Sec-WebSocket-Extensions: permessage-deflate"]])),
    ]
    head = "\r\n".join(["HTTP/1.1 101 Switching Protocols", *draw(st.permutations(lines)), "", ""])
    return early + head.encode()


@given(answers(), cuts, st.binary(max_size=20))
def test_a_right_answer_is_understood(answer: bytes, sizes: Sequence[int], behind: bytes) -> None:
    accepts = b" 101 " in answer
    (kind, *_) = check_client(answer + (behind if accepts else b""), sizes, BYTES)
    assert kind == ("accepted" if accepts else "rejected")


@given(st.data(), answers(), cuts)
def test_an_answer_that_is_nearly_right(
    data: st.DataObject, answer: bytes, sizes: Sequence[int]
) -> None:
    check_client(data.draw(mutated(answer)), sizes, BYTES)


@given(st.data(), answers(), cuts)
def test_an_answer_with_other_lines(
    data: st.DataObject, answer: bytes, sizes: Sequence[int]
) -> None:
    check_client(data.draw(other_lines(answer)), sizes, BYTES)


@given(st.binary(max_size=300), cuts)
def test_any_bytes_are_an_answer_or_none(answer: bytes, sizes: Sequence[int]) -> None:
    check_client(answer, sizes, BYTES)
    check_client(b"HTTP/1.1 404 Not Found\r\n" + answer, sizes, BYTES)


# --- what stands in headers ------------------------------------------------------------------

_PARAMETERS = st.sampled_from(
    [
        *("permessage-deflate", "Permessage-Deflate", "x-other", "", " "),
        *("client_max_window_bits", "server_max_window_bits=10", 'server_max_window_bits="8"'),
        *("client_max_window_bits=15", "client_max_window_bits=abc", "server_max_window_bits"),
        *("server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits=16"),
        *("server_no_context_takeover=1", "foo=bar", '"', "=", "client_max_window_bits=08"),
    ]
)
_OFFERS = st.lists(_PARAMETERS, min_size=1, max_size=5).map("; ".join) | st.text(max_size=40)
_OPTIONS = st.builds(
    Deflate,
    window_bits=st.integers(9, 15),
    max_window_bits=st.integers(9, 15),
    context_takeover=st.booleans(),
)


@given(st.lists(_OFFERS, max_size=3), _OPTIONS)
def test_any_extensions_are_agreed_on_or_not(texts: Sequence[str], options: Deflate) -> None:
    check_agreeing(texts, options)


@given(st.text(max_size=40) | st.text(string.printable, max_size=40))
def test_any_text_is_fit_for_the_wire_or_a_value_error(text: str) -> None:
    check_texts(text)
    check_texts("/" + text)
