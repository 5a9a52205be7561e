"""Redirects: which are followed, what goes along, and what is said where one is not."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    Peer,
    accepting,
    close_frame,
    echo,
    port_of,
    scripted,
    serving,
    virtual_clock,
)
from trioweb import Request, Response, Timeouts
from trioweb.addresses import Address


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


class Place:
    """A server by hand: a path leads to another place, or is one where messages are echoed."""

    def __init__(self, **leads: str) -> None:
        #: A target, without its slash, and the headers of the redirect from there.
        self.leads = leads
        self.status = 302
        self.asked: list[bytes] = []
        self.ended = 0

    @property
    def paths(self) -> list[str]:
        return [head.split()[1].decode() for head in self.asked]

    @property
    def keys(self) -> set[str]:
        return {self.header("Sec-WebSocket-Key", number) for number in range(len(self.asked))}

    def header(self, name: str, number: int = -1) -> str:
        for line in self.asked[number].decode("latin-1").splitlines():
            if line.startswith(f"{name}: "):
                return line.removeprefix(f"{name}: ")
        raise KeyError(name)

    def names(self, number: int = -1) -> set[str]:
        lines = self.asked[number].decode().splitlines()[1:-1]
        return {line.partition(":")[0] for line in lines}

    async def __call__(self, peer: Peer) -> None:
        self.asked.append(await peer.head())
        headers = self.leads.get(self.paths[-1].removeprefix("/"))
        if headers is None:
            offered = "Sec-WebSocket-Protocol" in self.names()
            await peer.send(
                accepting(
                    self.header("Sec-WebSocket-Key"),
                    "Sec-WebSocket-Protocol: chat\r\n" if offered else "",
                )
            )
            await close(peer)
            return
        text = f"HTTP/1.1 {self.status} Moved\r\n{headers}Content-Length: 0\r\n\r\n"
        await peer.send(text.encode("latin-1"))
        assert await peer.rest() == b""
        self.ended += 1


async def close(peer: Peer) -> None:
    """Answer the client's close frame; the end of the script is the end of the stream."""
    assert (await peer.frame()).close == (1000, "")
    await peer.send(close_frame(1000, mask=None))


def to(location: str) -> str:
    return f"Location: {location}\r\n"


async def rejected(url: str, **options: object) -> trioweb.HandshakeRejected:
    """Return how a connection is refused."""
    with pytest.raises(trioweb.HandshakeRejected) as caught:
        async with trioweb.connect(url, **options):  # type: ignore[arg-type]
            raise AssertionError("the block must not run")
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    return caught.value


# What is followed.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_redirects_of_http_are_followed(status):
    place = Place(a=to("/b?c=d"))
    place.status = status
    async with scripted(place) as url:
        options = {"Authorization": "Bearer x", "Cookie": "y=z", "X-Own": "1"}
        async with trioweb.connect(url + "/a", headers=options, subprotocols=["chat"]) as ws:
            assert ws.request.target == "/b?c=d"
            assert ws.request.headers["Host"] == url.removeprefix("ws://")
            assert ws.request.headers["X-Own"] == "1"
            assert ws.response.status == 101
            assert ws.subprotocol == "chat"
    assert place.paths == ["/a", "/b?c=d"]
    # To the same origin everything goes along, but never the key (RFC 6455, 4.1).
    assert place.names(0) == place.names(1) >= options.keys()
    assert len(place.keys) == 2
    assert place.ended == 1


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "/b"),
        ("b", "/x/b"),
        ("./b", "/x/b"),
        ("../b?c", "/b?c"),
        ("?c=d", "/x/a?c=d"),
        ("//{}/b", "/b"),
        ("http://{}/b", "/b"),
        ("HTTP://{}/b", "/b"),
        ("ws://{}", "/"),
        ("ws://{}/b#part", "/b"),
        ("/b#", "/b"),
        ("/%C3%BC%20", "/%C3%BC%20"),
    ],
)
async def test_the_forms_of_a_location(location, target):
    place = Place()
    async with scripted(place) as url:
        place.leads["x/a"] = to(location.format(url.removeprefix("ws://")))
        async with trioweb.connect(url + "/x/a") as ws:
            assert ws.request.target == target


async def test_redirects_from_tls_to_tls_are_followed(server_tls, client_tls):
    async def lead(request: Request) -> Response | None:
        if request.path == "/b":
            return None
        return Response.make(302, "", {"Location": f"https://localhost:{port_of(server)}/b"})

    async with (
        serving(echo, ssl_context=server_tls, on_request=lead) as server,
        trioweb.connect(server.url + "/a", ssl_context=client_tls) as ws,
    ):
        assert ws.request.target == "/b"
        await ws.send("hi")
        assert await ws.receive() == "hi"


async def test_a_redirect_from_ws_to_wss_is_followed_without_credentials(server_tls, client_tls):
    seen: list[bool] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        seen.append("authorization" in ws.request.headers)

    place = Place()
    async with serving(handler, ssl_context=server_tls) as server, scripted(place) as url:
        place.leads["a"] = to(f"https://localhost:{port_of(server)}/")
        headers = {"Authorization": "Bearer x"}
        async with trioweb.connect(url + "/a", headers=headers, ssl_context=client_tls) as ws:
            assert ws.remote_address[1] == port_of(server)
            assert "Authorization" not in ws.request.headers
    assert seen == [False]


# Another origin.


async def test_to_another_origin_only_harmless_headers_go_and_the_others_never_come_back():
    first, second = Place(), Place()
    async with scripted(first) as one, scripted(second) as two:
        first.leads["a"] = to(f"{two}/b")
        second.leads["b"] = to(f"{one}/c")
        headers = {
            "Authorization": "Bearer x",
            "Cookie": "y=z",
            "Proxy-Authorization": "Basic x",
            "X-Api-Key": "k",
            "user-agent": "me/1",
            "Origin": "https://me.example",
            "Accept-Language": "de",
        }
        async with trioweb.connect(one + "/a", headers=headers, deflate=None) as ws:
            assert ws.request.target == "/c"
            assert ws.request.headers["Host"] == one.removeprefix("ws://")
            assert "Cookie" not in ws.request.headers
    ours = {"Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"}
    assert first.names(0) == ours | headers.keys()
    assert second.names(0) == ours | {"user-agent", "Origin", "Accept-Language"}
    assert first.names(1) == second.names(0)
    assert second.header("Host") == two.removeprefix("ws://")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1.", "127.0.0.2"])
async def test_another_name_is_another_origin(host, monkeypatch):
    first, second = Place(), Place()
    async with scripted(first) as one, scripted(second) as two:
        # Only the name differs: the way there is bent to a second server on another port.
        port = int(one.rpartition(":")[2])

        async def open_tcp_stream(name: str, _port: int) -> trio.SocketStream:
            there = one if name == "127.0.0.1" else two
            return await direct("127.0.0.1", int(there.rpartition(":")[2]))

        direct = trio.open_tcp_stream
        monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
        first.leads["a"] = to(f"http://{host}:{port}/b")
        async with trioweb.connect(one + "/a", headers={"Cookie": "x=y"}):
            pass
    assert "Cookie" in first.names()
    assert "Cookie" not in second.names()


def test_an_origin_is_scheme_host_and_port():
    home = Address.parse("wss://a.example/x").origin
    assert Address.parse("wss://A.example:443/y?z").origin == home
    others = ["ws://a.example:443", "ws://a.example", "wss://a.example:444", "wss://b.a.example"]
    assert home not in [Address.parse(url).origin for url in others]


async def test_to_another_origin_subprotocols_do_not_go():
    first, second = Place(), Place()
    async with scripted(first) as one, scripted(second) as two:
        first.leads["a"] = to(f"{two}/b")
        error = await rejected(one + "/a", subprotocols=["base64url.bearer.x"])
        assert "subprotocols, which may hold a token" in str(error)
        assert error.headers["Location"] == f"{two}/b"
        assert second.asked == []


# What is not followed.


async def test_a_redirect_from_wss_to_ws_is_not_followed(server_tls, client_tls):
    place = Place()
    async with scripted(place) as url:

        async def lead(request: Request) -> Response:
            return Response.make(307, "", {"Location": url.replace("ws:", "http:")})

        async with serving(ssl_context=server_tls, on_request=lead) as server:
            error = await rejected(server.url, ssl_context=client_tls)
    assert str(error) == "server answered 307: not followed: it leads from wss to ws"
    assert place.asked == []


@pytest.mark.parametrize("most", [1, 2, 5])
async def test_redirects_are_bounded(most):
    place = Place(**{str(number): to(f"/{number + 1}") for number in range(9)})
    async with scripted(place) as url:
        error = await rejected(url + "/0", redirects=most)
        assert f"more than {most} redirects" in str(error)
        assert error.headers["Location"] == f"/{most + 1}"
        assert len(place.asked) == most + 1
        # As many as are allowed are followed.
        async with trioweb.connect(f"{url}/{9 - most}", redirects=most) as ws:
            assert ws.request.target == "/9"
    assert place.ended == len(place.asked) - 1
    assert len(place.keys) == len(place.asked)


async def test_without_redirects_the_answer_is_a_rejection_as_any_other():
    place = Place(a=to("/b"))
    async with scripted(place) as url:
        error = await rejected(url + "/a", redirects=0)
    assert (error.status, error.headers["Location"]) == (302, "/b")
    assert str(error) == "server answered 302"
    assert place.paths == ["/a"]


async def test_fewer_than_none_is_a_value_error():
    with pytest.raises(ValueError, match="redirects"):
        async with trioweb.connect("ws://localhost/", redirects=-1):
            pass


async def test_a_circle_is_found():
    place = Place(a=to("/b"), b=to("/c"), c=to("/a"))
    async with scripted(place) as url:
        error = await rejected(url + "/a")
    assert "in a circle" in str(error)
    assert place.paths == ["/a", "/b", "/c"]


@pytest.mark.parametrize("status", [300, 304, 305, 306, 309, 399])
async def test_other_answers_with_a_location_are_rejections(status):
    place = Place(a=to("/b"))
    place.status = status
    async with scripted(place) as url:
        error = await rejected(url + "/a")
    assert error.status == status
    assert place.paths == ["/a"]


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ("", "no Location"),
        ("Location:\r\n", "no Location"),
        (to("/b") + to("/c"), "or more than one"),
        (to("ftp://localhost/secret"), "its scheme is 'ftp'"),
        (to("javascript:secret"), "its scheme is 'javascript'"),
        (to("mailto:a@b"), "its scheme is 'mailto'"),
        (to("http:///secret"), "no host"),
        (to("http://"), "no host"),
        (to("http://user:secret@localhost/"), "credentials"),
        (to("http://localhost:99999/secret"), "malformed"),
        (to("http://localhost:x/?secret"), "malformed"),
        (to("http://[::1/?secret"), "malformed"),
        (to("http://a b/?secret"), "not a host"),
        (to("/ü?secret"), "not a request target"),
        (to("/a b?secret"), "not a request target"),
        (to(f"http://{'x' * 70}.example/"), "label"),
        (to("http://a..b/"), "label"),
        (to("http://\xfc.\xff\x80/"), "idna"),
    ],
)
async def test_a_bad_location_is_a_rejection_that_says_why(headers, why):
    place = Place(a=headers)
    async with scripted(place) as url:
        error = await rejected(url + "/a")
    assert error.status == 302
    assert str(error).startswith("server answered 302: not followed: ")
    assert why in str(error)
    assert "secret" not in str(error)
    assert place.ended == 1


async def test_a_redirect_leads_nowhere_from_a_stream_of_ones_own():
    place = Place(a=to("/b"))
    async with scripted(place) as url:
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        error = await rejected("ws://localhost/a", stream=stream)
    assert "a stream of your own" in str(error)
    assert place.paths == ["/a"]


async def test_where_a_redirect_leads_nobody_listens():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with scripted(Place(a=to(f"ws://127.0.0.1:{port}/"))) as url:
        with pytest.raises(trioweb.ConnectFailed, match=f"127.0.0.1:{port}"):
            async with trioweb.connect(url + "/a"):
                pass


async def test_all_redirects_share_the_time_of_one_connection(clock):
    asked: list[float] = []

    async def slow(peer: Peer) -> None:
        await peer.head()
        asked.append(trio.current_time())
        await trio.sleep(4)
        with suppress(trio.BrokenResourceError):
            await peer.send(
                f"HTTP/1.1 302 x\r\nLocation: /{len(asked)}\r\nContent-Length: 0\r\n\r\n".encode()
            )

    async with scripted(slow) as url:
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout, match="within 2 s"):
            async with trioweb.connect(url, timeouts=Timeouts(connect=1, handshake=5)):
                pass
        assert trio.current_time() - start == pytest.approx(6)
    assert len(asked) == 2


async def test_a_redirect_whose_body_never_ends_is_followed_at_once(clock):
    async def script(peer: Peer) -> None:
        head = await peer.head()
        if b"GET /b" in head:
            key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0].decode()
            await peer.send(accepting(key))
            await close(peer)
        else:
            await peer.send(b"HTTP/1.1 302 x\r\nLocation: /b\r\nContent-Length: 9\r\n\r\nhalf")
            await peer.rest()

    async with scripted(script) as url:
        start = trio.current_time()
        async with trioweb.connect(url, timeouts=Timeouts(handshake=5)) as ws:
            assert ws.request.target == "/b"
            assert trio.current_time() - start < 1


async def test_a_cancelled_redirect_leaves_nothing_open(clock):
    arrived, gone = trio.Event(), trio.Event()

    async def script(peer: Peer) -> None:
        head = await peer.head()
        if b"GET /b" in head:
            arrived.set()
            assert await peer.rest() == b""
            gone.set()
        else:
            await peer.send(b"HTTP/1.1 302 x\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")

    async with scripted(script) as url:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                async with trioweb.connect(url):
                    raise AssertionError

            nursery.start_soon(run)
            await arrived.wait()
            nursery.cancel_scope.cancel()
        await gone.wait()


async def test_a_long_location_makes_no_long_message():
    async def script(peer: Peer) -> None:
        await peer.head()
        head = f"HTTP/1.1 302 x\r\nLocation: /{'é' * 5000}\r\nContent-Length: 0\r\n\r\n"
        await peer.send(head.encode("latin-1"))
        await peer.rest()

    async with scripted(script) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await trioweb.connect(url).__aenter__()
        assert len(str(caught.value)) < 300
