"""The contract checks: what keeps its promises passes, and each broken promise is found out.

The tables of broken things are what matters: a check that finds nothing wrong proves nothing.
"""

# ruff: noqa: ARG002 - who breaks a promise often has no use for what it is given

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import time

import msgspec
import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

import trioweb
from trioweb import lifecycle, serving
from trioweb.abc import Observer
from trioweb.testing import Conditions, VirtualNetwork, open_pair
from trioweb.testing.contracts import check_codec, check_observer, check_transport, ends
from trioweb.testing.memory import CollectingObserver, FormCodec
from trioweb.tls import TlsTransport
from trioweb.transport import NonblockingTransport, SocketTransport, StreamTransport, Transport

# --- codecs ----------------------------------------------------------------------------------

FORMS = [{}, {"move": "up", "by": "2"}, {"": ""}, {"ä &=%": "x\n\0 +", "b": "\U0001f600"}]
LISTS = [[1, 2, {"a": None}], [], {"a": [True, "x"]}, "text", 1.5]


class Json:
    """A codec that keeps its promises."""

    def encode(self, value):
        return json.dumps(value)

    def decode(self, message):
        try:
            return json.loads(message)
        except RecursionError as error:
            raise ValueError("nested too deep") from error


def test_the_codec_in_memory_keeps_its_promises():
    check_codec(
        FormCodec(),
        FORMS,
        refused=[None, "a=b", ["a"], {1: "a"}, {"a": 1}, {"a": b"b"}, {"a": "\ud800"}],
        malformed=["a", "a=1&", "=&a", "a=1&a=2", "%ff=1", "a=%ff", b"a=1"],
    )


def test_a_codec_for_any_shape_keeps_its_promises():
    check_codec(Json(), LISTS, refused=[{1, 2}, b"bytes"], malformed=["", "[", "nul", "[1]]"])


def test_a_codec_is_checked_with_values():
    with pytest.raises(ValueError, match="needs values"):
        check_codec(FormCodec(), [])


class Bytearrays(Json):
    def encode(self, value):
        return bytearray(super().encode(value).encode())


class AsyncEncode(Json):
    async def encode(self, value):
        return super().encode(value)


class AsyncDecode(Json):
    async def decode(self, message):
        return super().decode(message)


class FailsToEncode(Json):
    def encode(self, value):
        return super().encode({"sorted": sorted(value)})


class FailsToDecode(Json):
    def decode(self, message):
        return super().decode(message)["a"]


class Lossy(Json):
    def decode(self, message):
        decoded = super().decode(message)
        return [] if isinstance(decoded, list) else decoded


class Numbered(Json):
    count = 0

    def encode(self, value):
        self.count += 1
        return super().encode(value) + " " * self.count


class Delta(Json):
    """Says "the same" for a value that it has just sent."""

    last: object = None

    def encode(self, value):
        message = json.dumps(value)
        before, self.last = self.last, message
        return "same" if before == message else message


class Numbers(Json):
    """Says how many different values it has seen."""

    def __init__(self):
        self.seen = set()

    def encode(self, value):
        message = json.dumps(value)
        self.seen.add(message)
        return message + " " * len(self.seen)


class DecodesByTurns(Json):
    """Depends on what it decoded before."""

    before: object = None

    def decode(self, message):
        decoded = super().decode(message)
        if isinstance(decoded, list) and isinstance(self.before, dict):
            decoded = [self.before, *decoded]
        self.before = decoded
        return decoded


class BrokenByRefusal(Json):
    def encode(self, value):
        try:
            return super().encode(value) + getattr(self, "suffix", "")
        except TypeError:
            self.suffix = " "
            raise


class BrokenByRubbish(Json):
    buffer = ""

    def decode(self, message):
        if isinstance(message, bytes):
            self.buffer, message = "[", message.decode("latin-1")
        return super().decode(self.buffer + message)


class Marks(Json):
    def encode(self, value):
        if isinstance(value, dict):
            value["type"] = "dict"
        return super().encode(value)


class Caches(Json):
    def __init__(self):
        self.cache: dict[object, object] = {}

    def decode(self, message):
        if message not in self.cache:
            self.cache[message] = super().decode(message)
        return self.cache[message]


class RefusesWithValueError(Json):
    def encode(self, value):
        try:
            return super().encode(value)
        except TypeError as error:
            raise ValueError("no") from error


class EncodesAnything(Json):
    def encode(self, value):
        return json.dumps(value, default=repr)


class AcceptsAnything(Json):
    def decode(self, message):
        try:
            return super().decode(message)
        except ValueError:
            return None


class RaisesKeyError(Json):
    def decode(self, message):
        try:
            return super().decode(message)
        except ValueError as error:
            raise KeyError(message) from error


class LooksAtTheFirst(Json):
    def decode(self, message):
        assert message[0] is not None
        return super().decode(message)


class TextOnly(Json):
    def decode(self, message):
        return super().decode(message.encode().decode())


class Recurses:
    encode = staticmethod(json.dumps)
    decode = staticmethod(json.loads)


class Believes(Json):
    """Makes room for as much as the peer announces."""

    def decode(self, message):
        if isinstance(message, bytes) and len(message) >= 8:
            bytearray(struct.unpack_from("!Q", message)[0] | 2**63)
        return super().decode(message)


class RaisesItsOwn:
    encode = staticmethod(msgspec.json.encode)
    decode = staticmethod(msgspec.json.decode)


@pytest.mark.parametrize(
    ("codec", "match"),
    [
        (Bytearrays, r"encode\(\[1, 2, .* gave bytearray\(.*, which is neither str nor bytes"),
        (AsyncEncode, "encode is async"),
        (AsyncDecode, "decode is async"),
        (FailsToEncode, r"encode\(\[1, 2, .*\) raised TypeError"),
        (FailsToDecode, r"decode raised TypeError.* for '\[1, 2, .*', the message of \[1, 2"),
        (Lossy, r"\[1, 2, \{'a': None\}\] came back as \[\]"),
        (Numbered, r"encode gave two messages for \[1, 2, .*: '.*\] ', then '.*\]  '"),
        (Delta, r"encode gave two messages for \[1, 2, .*: '.*\]', then 'same'"),
        (Numbers, "gave another message after other values were encoded"),
        (DecodesByTurns, r"\[\] came back as \[\{'a'"),
        (BrokenByRefusal, "gave another message after encode had refused a value"),
        (BrokenByRubbish, "decode raised .*, the message of 1.5"),
        (Marks, r"encode changed its argument, \{'a': .*\}, to \{.*'type': 'dict'"),
        (Caches, "decode gave the same object twice for"),
        (RefusesWithValueError, r"encode\(\{1, 2\}\) raised ValueError.*, not a TypeError"),
        (EncodesAnything, r"encode\(<object object .*\) gave .* instead of raising TypeError"),
        (AcceptsAnything, r"decode\('nul'\) gave None instead of raising ValueError"),
        (RaisesKeyError, r"decode\('nul'\) raised KeyError\('nul'\), not a ValueError"),
        (LooksAtTheFirst, r"decode\(''\), 0 long, raised IndexError, which is no ValueError"),
        (TextOnly, r"decode\(b.*\) *, .* long, raised AttributeError"),
        (Recurses, r"decode\('\[\[.*\), 100,000 long, raised RecursionError"),
        (Believes, r"raised (OverflowError|MemoryError)"),
        (RaisesItsOwn, r"\w+, (which is no|not a) ValueError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_codec_is_found_out(codec, match):
    refused = [{1, 2}] if codec is RefusesWithValueError else []
    malformed = ["nul"] if codec in (AcceptsAnything, RaisesKeyError, RaisesItsOwn) else []
    with pytest.raises(AssertionError, match=match):
        check_codec(codec(), LISTS, refused=refused, malformed=malformed)


def test_what_a_message_shows_is_short():
    with pytest.raises(AssertionError) as caught:
        check_codec(Lossy(), [["x" * 10_000] * 100])
    assert len(str(caught.value)) < 1000


# --- observers -------------------------------------------------------------------------------


async def test_the_observer_in_memory_keeps_its_promises(autojump_clock):
    await check_observer(CollectingObserver)


async def test_an_observer_that_does_nothing_keeps_its_promises_in_real_time():
    await check_observer(Observer)


async def test_the_observer_in_memory_says_what_happened(autojump_clock):
    observer = CollectingObserver()

    async def fail(ws):
        await ws.receive()
        raise LookupError("no")

    network = VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(fail, 1, observers=[observer]):
            with network.host("client") as host:
                async with trioweb.connect("ws://server:1/a") as ws:
                    await ws.send("x")
                    with contextlib.suppress(trioweb.ConnectionBroken):
                        await ws.receive()
                for request in (b"GET /b HTTP/1.1\r\nHost: server\r\n\r\n", b"nonsense\r\n\r\n"):
                    async with await host.open_stream("server", 1) as stream:
                        await stream.send_all(request)
                        while await stream.receive_some():
                            pass
    assert observer.events == [
        ("opened", "/a"),
        ("failed", "/a", "LookupError('no')"),
        ("ended", "/a", 1011),
        ("answered", "/b", 426),
        ("answered", None, 400),
    ]


async def test_the_observer_in_memory_is_bounded(autojump_clock):
    observer = CollectingObserver(limit=3)
    for _ in range(3):
        async with open_pair(server={"observers": [observer]}):
            pass
    assert observer.events == [("ended", "/", 1000), ("opened", "/"), ("ended", "/", 1000)]
    assert observer.dropped == 3
    with pytest.raises(ValueError, match="at least 1"):
        CollectingObserver(limit=0)


def raising(name: str) -> type[Observer]:
    def fail(self, *args):
        raise LookupError(name)

    return type(f"Raises_{name}", (Observer,), {name: fail})


def opening(function) -> type[Observer]:
    """Make an observer that does something when a connection opens."""
    return type(function.__name__, (Observer,), {"opened": lambda _, ws: function(ws)})


class AsyncHook(Observer):
    async def ended(self, connection, close):  # type: ignore[override]
        pass


class GeneratorHook(Observer):
    def opened(self, connection):
        yield connection


async def hook(connection):
    pass


class HiddenAsyncHook(Observer):
    def opened(self, connection):
        return hook(connection)


class WrongSignature(Observer):
    def ended(self, connection):  # type: ignore[override]
        pass


class OneAtATime(Observer):
    """Works as long as there is one connection."""

    connection = None

    def opened(self, connection):
        assert self.connection is None
        self.connection = connection

    def ended(self, connection, close):
        self.connection = None


class BothEndsAtATime(Observer):
    """Works as long as there is one client."""

    def __init__(self):
        self.ids = set()

    def opened(self, connection):
        self.ids.add(connection.id)
        assert len(self.ids) < 3

    def ended(self, connection, close):
        self.ids.remove(connection.id)


class CleanEndsOnly(Observer):
    def ended(self, connection, close):
        {1000: "normal", 1001: "going away", 4000: "enough"}[close.code]


class OwnEndsOnly(Observer):
    """Does not know 1000 from the peer."""

    def ended(self, connection, close):
        assert (close.code, close.by_peer) != (1000, True)


class ForEverOnly(Observer):
    """Does not know that anybody goes away."""

    def ended(self, connection, close):
        assert close.code != 1001


class UncancelledOnly(Observer):
    def ended(self, connection, close):
        assert trio.current_effective_deadline() > 0


class LegibleOnly(Observer):
    def answered(self, request, response):
        assert request.path


class NoObserver:
    def opened(self, connection):
        pass


class Apologizes(Observer):
    def handler_failed(self, connection, error):
        connection.send_nowait("sorry")


class Hangs(Observer):
    """Hangs up on those whose handler failed."""

    def handler_failed(self, connection, error):
        connection._life.drain(trioweb.Close(4001))


def sleeps(ws):
    time.sleep(0)


def runs(ws):
    trio.run(trio.sleep, 0)


def runs_and_hides_it(ws):
    with contextlib.suppress(RuntimeError):
        trio.run(trio.sleep, 0)


def forgets_to_await(ws):
    hook(ws)  # type: ignore[unused-coroutine]


def looks_up(ws):
    socket.getaddrinfo("127.0.0.1", 80)


def receives(ws):
    one, other = socket.socketpair()
    with one, other:
        one.send(b"x")
        other.recv(1)


def sends(ws):
    ws.send_nowait("hello from the observer")


def takes(ws):
    ws.receive = None


def closes(ws):
    ws._life.cut(trioweb.Close(4001))


async def make_async():
    return Observer()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (raising("opened"), r"the client closes: opened\(.*\) raised LookupError\('opened'\)"),
        (raising("ended"), r"the client closes: ended\(.*4000.*\) raised LookupError\('ended'\)"),
        (raising("handler_failed"), r"handler raises: .* raised LookupError\('handler_failed'\)"),
        (raising("answered"), r"refused: .* raised LookupError\('answered'\)"),
        (AsyncHook, "ended is async or a generator"),
        (GeneratorHook, "opened is async or a generator"),
        (HiddenAsyncHook, "opened is async"),
        (WrongSignature, r"ended\(.*\) raised TypeError"),
        (OneAtATime, r"opened\(.*\) raised AssertionError"),
        (BothEndsAtATime, r"beside others: opened\(.*\) raised AssertionError"),
        (CleanEndsOnly, r"that breaks: ended\(.*\) raised KeyError\(.*1006"),
        (OwnEndsOnly, r"that the server closes: ended\(.*\) raised AssertionError"),
        (ForEverOnly, r"that is drained: ended\(.*\) raised AssertionError"),
        (UncancelledOnly, r"that is cancelled: ended\(.*\) raised AssertionError"),
        (LegibleOnly, r"refused: answered\(None, .*\) raised AttributeError"),
        (NoObserver, "is no Observer"),
        (opening(sleeps), r"opened\(.*\) must not wait, but calls time.sleep"),
        (opening(runs), r"opened\(.*\) raised RuntimeError"),
        (opening(runs_and_hides_it), r"opened\(.*\) must not wait, but calls run"),
        (opening(forgets_to_await), r"opened\(.*\) must not wait, but: .* never awaited"),
        (opening(looks_up), r"opened\(.*\) must not wait, but calls _socket.getaddrinfo"),
        (opening(receives), r"opened\(.*\) must not wait, but calls socket.recv"),
        (opening(sends), "'hello from the observer' came instead of 'one'"),
        (opening(takes), r"opened\(.*\) raised AttributeError"),
        (opening(closes), r"there came ConnectionBroken\(.*4001"),
        (Apologizes, "disturbs the connection: 'sorry' came at its end"),
        (Hangs, "disturbs the connection: it ended with 4001"),
        (make_async, "make_observer is async"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_broken_observer_is_found_out(make, match, autojump_clock):
    with pytest.raises(AssertionError, match=match):
        await check_observer(make)


tell = lifecycle.Lifecycle._tell
report = serving._report
answer = serving._Exchange._answer


class Impostor:
    """Looks like the connection, and is another object."""

    def __init__(self, ws):
        self.id, self.request, self.closed = ws.id, ws.request, ws.closed


def tells_twice(life, what):
    tell(life, what)
    tell(life, what)


def never_opens(life, what):
    if what != "opened":
        tell(life, what)


def never_ends(life, what):
    if what != "ended":
        tell(life, what)


def never_tells(life, what):
    pass


def opens_at_the_end(life, what):
    if what == "ended":
        tell(life, "ended")
        tell(life, "opened")


def tells_of_an_impostor(life, what):
    ws = life.connection
    life.connection = Impostor(ws) if what == "ended" else ws
    tell(life, what)
    life.connection = ws


def tells_of_impostors(life, what):
    ws = life.connection
    if not isinstance(ws, Impostor):
        life.connection = Impostor(ws)
    life.connection.closed = life.closed
    tell(life, what)


def tells_of_another_close(life, what):
    if what == "opened":
        tell(life, what)
        return
    for observer in life._observers:
        observer.ended(life.connection, trioweb.Close(1000))


def tells_too_early(life, what):
    if what == "opened":
        tell(life, what)
        return
    close, life.closed = life.closed, None
    for observer in life._observers:
        observer.ended(life.connection, close)
    life.closed = close


def never_reports(upgraded, options, error):
    pass


def reports_twice(upgraded, options, error):
    report(upgraded, options, error)
    report(upgraded, options, error)


def wraps(upgraded, options, error):
    report(upgraded, options, ExceptionGroup("wrapped", [error]))


async def never_answers(exchange, request, response, data):
    await exchange._write(data)


async def hides_the_request(exchange, request, response, data):
    await answer(exchange, None, response, data)


async def answers_twice(exchange, request, response, data):
    for observer in exchange._options.observers:
        observer.answered(request, response)
    await answer(exchange, request, response, data)


async def answers_something_else(exchange, request, response, data):
    await answer(exchange, request, response, b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize(
    ("place", "name", "broken", "match"),
    [
        (lifecycle.Lifecycle, "_tell", tells_twice, "opened was called 2 times"),
        (lifecycle.Lifecycle, "_tell", never_opens, "opened was called 0 times"),
        (lifecycle.Lifecycle, "_tell", never_ends, "ended was called 0 times"),
        (lifecycle.Lifecycle, "_tell", never_tells, r"opened was told \[\], and there were"),
        (lifecycle.Lifecycle, "_tell", opens_at_the_end, "opened was not the first"),
        (lifecycle.Lifecycle, "_tell", tells_of_an_impostor, "ended was told another object"),
        (lifecycle.Lifecycle, "_tell", tells_of_impostors, "opened was told .*Impostor"),
        (lifecycle.Lifecycle, "_tell", tells_of_another_close, "ended was told .* while closed"),
        (lifecycle.Lifecycle, "_tell", tells_too_early, "ended was told .* while closed was None"),
        (serving, "_report", never_reports, r"handler_failed was told \[\]"),
        (serving, "_report", reports_twice, "handler_failed was told .*LookupError.*LookupError"),
        (serving, "_report", wraps, "handler_failed was told .*ExceptionGroup"),
        (serving._Exchange, "_answer", never_answers, r"answered was told \[\] after"),
        (serving._Exchange, "_answer", hides_the_request, r"answered was told \[\(None, 404\)\]"),
        (serving._Exchange, "_answer", answers_something_else, "b'404' became b'HTTP/1.1 200"),
        (serving._Exchange, "_answer", answers_twice, r"answered was told \[.*404.*404.*\] after"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_connection_that_breaks_its_promises_is_found_out(
    place, name, broken, match, monkeypatch, autojump_clock
):
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError, match=match):
        await check_observer(CollectingObserver)


# --- transports ------------------------------------------------------------------------------


async def tcp_streams():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        one = await trio.open_tcp_stream(*listener.socket.getsockname())
        return one, await listener.accept()


def over_socket_pair():
    async def make_pair():
        one, other = socket.socketpair()
        return SocketTransport(one), SocketTransport(other)

    return make_pair


async def over_tcp():
    one, other = await tcp_streams()
    return SocketTransport.from_stream(one), SocketTransport.from_stream(other)


async def over_a_tcp_stream():
    one, other = await tcp_streams()
    return StreamTransport(one), StreamTransport(other)


async def in_lockstep():
    one, other = lockstep_stream_pair()
    return StreamTransport(one), StreamTransport(other)


async def in_memory():
    one, other = memory_stream_pair()
    return StreamTransport(one), StreamTransport(other)


def over_tls(server_tls, client_tls, *, https: bool):
    async def make_pair():
        one, other = await tcp_streams()
        client = trio.SSLStream(
            one, client_tls, server_hostname="localhost", https_compatible=https
        )
        server = trio.SSLStream(other, server_tls, server_side=True, https_compatible=https)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
        return StreamTransport(client), StreamTransport(server)

    return make_pair


def over_nonblocking_tls(make_pair, server_tls, client_tls):
    async def make_tls_pair():
        one, other = await make_pair()
        client = TlsTransport(one, client_tls, server_hostname="localhost")
        server = TlsTransport(other, server_tls, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
        if isinstance(trio.lowlevel.current_clock(), MockClock):
            await trio.sleep(100)
        # A server sends tickets behind its handshake, which are no bytes for us.
        assert server.read_nowait(1) is client.read_nowait(1) is None
        return client, server

    return make_tls_pair


async def virtual_pair(conditions):
    network = VirtualNetwork(conditions=conditions)
    with network.host("server") as host:
        (listener,) = await host.open_listeners(1, None)
    with network.host("client") as host:
        client = await host.open_stream("server", 1)
    async with listener:
        return client, await listener.accept()


WEATHER = {
    "perfect": Conditions(),
    "cut": Conditions(chunk=7, buffer=400),
    "slow": Conditions(latency=0.2, jitter=0.1, buffer=5000),
    "narrow": Conditions(latency=1, bandwidth=20_000, chunk=300, buffer=1000),
    "tiny": Conditions(latency=0.001, buffer=30),
}


@pytest.mark.parametrize(
    "make_pair", [over_socket_pair(), over_tcp, over_a_tcp_stream, in_lockstep]
)
async def test_transports_keep_their_promises(make_pair):
    await check_transport(make_pair)


@pytest.mark.parametrize("make_pair", [over_socket_pair(), in_lockstep])
async def test_transports_keep_their_promises_in_virtual_time(make_pair, autojump_clock):
    await check_transport(make_pair)


async def test_a_stream_without_a_bound_keeps_the_other_promises():
    await check_transport(in_memory, bounded=False)


@pytest.mark.parametrize("https", [False, True])
async def test_tls_keeps_its_promises(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, https: bool
):
    await check_transport(over_tls(server_tls, client_tls, https=https))


@pytest.mark.parametrize("make_pair", [over_socket_pair(), over_tcp])
async def test_nonblocking_tls_keeps_its_promises(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, make_pair
):
    await check_transport(over_nonblocking_tls(make_pair, server_tls, client_tls))


@pytest.mark.parametrize("weather", ["perfect", "slow"])  # where a record needs few turns
async def test_nonblocking_tls_keeps_its_promises_in_any_weather(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, weather, autojump_clock
):
    pair = over_nonblocking_tls(lambda: virtual_pair(WEATHER[weather]), server_tls, client_tls)
    await check_transport(pair, patience=1000)


@pytest.mark.parametrize("weather", WEATHER)
async def test_a_virtual_network_keeps_its_promises(weather, autojump_clock):
    await check_transport(lambda: virtual_pair(WEATHER[weather]), patience=100)


async def test_a_virtual_network_keeps_its_promises_in_real_time():
    await check_transport(lambda: virtual_pair(Conditions()))


# Broken ones. Each differs from one that keeps its promises in one thing.


class Good(NonblockingTransport):
    """Keeps its promises by passing everything on."""

    def __init__(self, inner):
        self.inner = inner

    def read_nowait(self, max_bytes):
        return self.inner.read_nowait(max_bytes)

    async def wait_readable(self):
        await self.inner.wait_readable()

    def write_nowait(self, data):
        return self.inner.write_nowait(data)

    async def wait_writable(self):
        await self.inner.wait_writable()

    def interrupt(self):
        self.inner.interrupt()

    async def send_eof(self):
        await self.inner.send_eof()

    def close(self):
        self.inner.close()


class GoodStream(Transport):
    """The same, without what can be tried without waiting."""

    def __init__(self, inner):
        self.inner = inner

    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)

    async def write(self, data):
        return await self.inner.write(data)

    async def send_eof(self):
        await self.inner.send_eof()

    async def aclose(self):
        await self.inner.aclose()


def both(cls, conditions=Conditions(buffer=3000)):  # noqa: B008 - frozen
    async def make_pair():
        one, other = await virtual_pair(conditions)
        return cls(one), cls(other)

    return make_pair


@pytest.mark.parametrize("cls", [Good, GoodStream])
async def test_the_good_ones_are_good(cls, autojump_clock):
    await check_transport(both(cls))


BROKEN: list[tuple[type[Transport], str]] = []


def broken(match: str):
    def note(cls):
        BROKEN.append((cls, match))
        return cls

    return note


# What crosses.


@broken(r"(first|second).read\(\d+\) gave \d+ bytes")
class ReadsTooMuch(Good):
    def read_nowait(self, max_bytes):
        return super().read_nowait(max_bytes + 1)


@broken("gave a bytearray, not bytes")
class ReadsBytearrays(GoodStream):
    async def read(self, max_bytes):
        return bytearray(await super().read(max_bytes))


@broken(r"write\(\d+ bytes\) says that it took \d+ of \d+ bytes")
class SaysMoreThanThereIs(Good):
    def write_nowait(self, data):
        taken = super().write_nowait(data)
        return taken and taken + len(data)


@broken(r"says that it took 0 of \d+ bytes")
class WritesNothing(GoodStream):
    async def write(self, data):
        await trio.lowlevel.checkpoint()
        return 0


@broken(r"both ways at once: .*byte [\d,]+ is not the one written")
class SaysAll(Good):
    def write_nowait(self, data):
        return super().write_nowait(data) and len(data)


@broken("is not the one written")
class SaysLess(GoodStream):
    async def write(self, data):
        return max(1, await super().write(data) - 1)


@broken("is not the one written")
class Reverses(Good):
    def read_nowait(self, max_bytes):
        data = super().read_nowait(max_bytes)
        return data and data[::-1]


@broken("is not the one written")
class Loses(Good):
    reads = 0

    def read_nowait(self, max_bytes):
        data = super().read_nowait(max_bytes)
        self.reads += bool(data)
        return data[:-1] if data and len(data) > 1 and self.reads % 5 == 0 else data


@broken("is not the one written")
class Repeats(Good):
    def __init__(self, inner):
        super().__init__(inner)
        self.again = b""

    def read_nowait(self, max_bytes):
        data = self.again[:max_bytes] or super().read_nowait(max_bytes)
        self.again = b"" if self.again or not data else data
        return data


@broken("nobody read|does not wait when full")
class TakesAnything(GoodStream):
    async def write(self, data):
        await trio.lowlevel.checkpoint()
        return len(data)


@broken("both ways at once: .*read came to an end too early")
class EndsEarly(Good):
    count = 0

    def read_nowait(self, max_bytes):
        data = super().read_nowait(max_bytes)
        self.count += len(data or b"")
        return b"" if self.count > 10_000 else data


@broken("when tried: .*read_nowait came to an end too early")
class EndsEarlyWhenTried(EndsEarly):
    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken("write does not wait when full: it raised BrokenResourceError")
class BreaksWhenFull(GoodStream):
    async def write(self, data):
        if self.inner._out.size >= 3000:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("full")
        return await super().write(data)


@broken("writing can be tried: (first|second) took 67,108,864 bytes that nobody read")
class TakesAnythingWhenTried(Good):
    def write_nowait(self, data):
        self.inner._check()
        return len(data)

    async def write(self, data):
        return await self.inner.write(data)


# The end.


@broken("the end: .* BrokenResourceError")
class EndsOnce(Good):
    over = False

    def read_nowait(self, max_bytes):
        data = super().read_nowait(max_bytes)
        if data == b"":
            if self.over:
                raise trio.BrokenResourceError("over")
            self.over = True
        return data


@broken(r"the peer's aclose wakes a read: not over after 10 s, in (first|second).read\(\d+\)")
class NeverEnds(GoodStream):
    async def read(self, max_bytes):
        data = await super().read(max_bytes)
        if not data:
            await trio.sleep_forever()
        return data


@broken("and then the end: .*read came to the end at 0, not at 300")
class ForgetsWhatWasUnderWay(GoodStream):
    async def read(self, max_bytes):
        if self.inner._peer.over:
            await trio.lowlevel.checkpoint()
            self.inner._check()
            return b""
        return await super().read(max_bytes)


@broken("and then the end: .*read gave b'.*' after the end")
class GoesOnAfterTheEnd(GoodStream):
    """Gives a byte that was not written, but looks like the next one."""

    ended = 0

    async def read(self, max_bytes):
        data = await super().read(max_bytes)
        self.ended += not data
        return ends._NOISE[300:301] if self.ended > 1 else data


@broken("send_eof .*: not over after 10 s")
class SendsNoEof(GoodStream):
    async def send_eof(self):
        await trio.lowlevel.checkpoint()


@broken("send_eof ends one direction at most")
class SendEofCloses(Good):
    async def send_eof(self):
        self.close()
        await trio.lowlevel.checkpoint()


@broken("send_eof ends one direction at most: .* 100 bytes are missing")
class SendEofEndsWritingAfterAll(GoodStream):
    half_closes = False


@broken("send_eof ends one direction at most: there came RuntimeError")
class SendsEofOnce(Good):
    sent = False

    async def send_eof(self):
        if self.sent:
            raise RuntimeError("sent already")
        self.sent = True
        await super().send_eof()


# Closing.


@broken("read after aclose must raise ClosedResourceError|aclose.*: not over")
class DoesNotClose(GoodStream):
    async def aclose(self):
        await trio.lowlevel.checkpoint()


@broken("aclose closes, twice too: there came RuntimeError")
class ClosesOnce(Good):
    closed = False

    def close(self):
        if self.closed and trio.current_effective_deadline() > 0:  # not the check's own way out
            raise RuntimeError("closed already")
        self.closed = True
        super().close()


@broken("a cancelled aclose closes: not over after 10 s, in (first|second).read")
class ClosesUnlessCancelled(Good):
    async def aclose(self):
        await trio.lowlevel.checkpoint()
        self.close()


@broken(r"read after aclose must raise ClosedResourceError, but it raised BrokenResourceError")
class BrokenWhenClosed(Good):
    def read_nowait(self, max_bytes):
        try:
            return super().read_nowait(max_bytes)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("closed") from None


@broken(r"read after aclose must raise ClosedResourceError, but it returned")
class EndsWhenClosed(Good):
    def read_nowait(self, max_bytes):
        try:
            return super().read_nowait(max_bytes)
        except trio.ClosedResourceError:
            return b""


@broken(r"read_nowait did not raise ClosedResourceError")
class NothingToReadWhenClosed(Good):
    def read_nowait(self, max_bytes):
        return None if self.inner.over else super().read_nowait(max_bytes)

    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken(r"write_nowait did not raise ClosedResourceError")
class NoRoomWhenClosed(Good):
    def write_nowait(self, data):
        return 0 if self.inner.over else super().write_nowait(data)

    async def write(self, data):
        return await self.inner.write(data)


@broken(r"aclose closes.*: there came OSError")
class OsErrorWhenClosed(Good):
    def write_nowait(self, data):
        try:
            return super().write_nowait(data)
        except trio.ClosedResourceError:
            raise OSError(9, "bad file descriptor") from None


@broken("aclose closes.*: not over after 10 s, in (first|second).wait_readable")
class HangsWhenClosed(Good):
    async def wait_readable(self):
        if self.inner.over:
            await trio.sleep_forever()
        await super().wait_readable()


@broken("aclose wakes a read: not over after 10 s, in (first|second).read")
class CloseWakesNobody(Good):
    async def wait_readable(self):
        was_over = self.inner.over
        await super().wait_readable()
        if self.inner.over and not was_over:
            await trio.sleep_forever()


@broken("forceful aclose wakes a write: .* must raise ClosedResourceError")
class CloseBreaksWrites(GoodStream):
    async def write(self, data):
        try:
            return await super().write(data)
        except trio.ClosedResourceError:
            if self.inner._out.size >= 3000:  # it was full
                raise trio.BrokenResourceError("closed") from None
            raise


# The peer.


@broken("the peer's aclose is noticed: there came ConnectionResetError")
class OsErrorFromThePeer(Good):
    def write_nowait(self, data):
        try:
            return super().write_nowait(data)
        except trio.BrokenResourceError:
            raise ConnectionResetError("reset by peer") from None


@broken("write after the peer's aclose must raise BrokenResourceError, .*ClosedResourceError")
class ClosedByThePeer(GoodStream):
    async def write(self, data):
        try:
            return await super().write(data)
        except trio.BrokenResourceError:
            raise trio.ClosedResourceError("the peer has closed") from None


@broken("the peer's aclose is noticed: .*bytes that nobody read")
class NeverBreaks(Good):
    def write_nowait(self, data):
        try:
            return super().write_nowait(data)
        except trio.BrokenResourceError:
            return len(data)


@broken("the peer's aclose wakes a read: not over after 10 s, in (first|second).read")
class WaitsForWordOfAPeerThatIsGone(GoodStream):
    async def read(self, max_bytes):
        waits = self.inner._in.next_arrival > trio.current_time()
        data = await super().read(max_bytes)
        if waits and not data:
            await trio.sleep_forever()
        return data


@broken("the peer's aclose wakes a write: not over after 10 s, in (first|second).write")
class WaitsForRoomOfAPeerThatIsGone(GoodStream):
    async def write(self, data):
        waits = self.inner._out.size >= 3000 and not self.inner._peer.over
        try:
            return await super().write(data)
        except trio.BrokenResourceError:
            if waits:
                await trio.sleep_forever()
            raise


@broken("the peer's aclose wakes a read: there came ConnectionResetError")
class OsErrorAtTheEnd(GoodStream):
    async def read(self, max_bytes):
        data = await super().read(max_bytes)
        if not data and self.inner._peer._closed:
            raise ConnectionResetError("reset by peer")
        return data


# Cancellation and checkpoints.


@broken("read.* ran no checkpoint")
class ReadsAtOnce(Good):
    async def read(self, max_bytes):
        while (data := self.read_nowait(max_bytes)) is None:
            await self.wait_readable()
        return data


@broken("read.* my own mistake")
class AssertsInVain(Good):
    async def read(self, max_bytes):
        raise AssertionError("my own mistake")


@broken("write.* ran no checkpoint")
class WritesAtOnce(Good):
    async def write(self, data):
        while not (taken := self.write_nowait(data)):
            await self.wait_writable()
        return taken


@broken(r"send_eof\(\) ran no checkpoint")
class SendsEofAtOnce(Good):
    async def send_eof(self):
        with contextlib.suppress(StopIteration):
            self.inner.send_eof().send(None)


@broken(r"aclose\(\) ran no checkpoint")
class ClosesAtOnce(Good):
    async def aclose(self):
        self.close()


@broken(r"wait_writable\(\) ran no checkpoint|wait_writable did not deliver it")
class WaitsNotAtAll(Good):
    async def wait_writable(self):
        if self.inner._out.size >= 3000:
            await super().wait_writable()


@broken("a read waits .*: (first|second).read cannot be cancelled while it waits")
class ShieldsReads(GoodStream):
    async def read(self, max_bytes):
        with trio.CancelScope(shield=True):
            return await super().read(max_bytes)


@broken("a write waits .*: (first|second).write cannot be cancelled while it waits")
class ShieldsWrites(GoodStream):
    async def write(self, data):
        with trio.CancelScope(shield=True):
            return await super().write(data)


@broken("pending cancellation: (first|second).read did not deliver it")
class ShieldsQuickReads(Good):
    async def read(self, max_bytes):
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        while (data := self.read_nowait(max_bytes)) is None:
            await self.wait_readable()
        return data


@broken("pending cancellation: (first|second).write did not deliver it")
class ShieldsQuickWrites(Good):
    async def write(self, data):
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        while not (taken := self.write_nowait(data)):
            await self.wait_writable()
        return taken


@broken("a cancelled read loses nothing")
class LosesCancelledReads(Good):
    async def read(self, max_bytes):
        data = await super().read(max_bytes)
        await trio.lowlevel.checkpoint()
        return data


@broken("a cancelled write takes nothing|a write waits for room")
class TakesCancelledWrites(Good):
    async def write(self, data):
        taken = await super().write(data)
        await trio.lowlevel.checkpoint()
        return taken


@broken(r"it spins, in (first|second)\.read")
class Spins(GoodStream):
    async def read(self, max_bytes):
        while (data := self.inner.read_nowait(max_bytes)) is None:
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return data


# What can be tried without waiting.


@broken("when tried: .*is not the one written")
class LosesWhenTried(Loses):
    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken("a read waits .*read did not wait, though nothing had come")
class EndsInsteadOfWaiting(Good):
    def read_nowait(self, max_bytes):
        data = super().read_nowait(max_bytes)
        return b"" if data is None else data


@broken("reading can be tried: .*read_nowait gave something: nothing was sent")
class EndsInsteadOfWaitingWhenTried(EndsInsteadOfWaiting):
    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken("there came WouldBlock")
class RaisesWouldBlock(Good):
    def read_nowait(self, max_bytes):
        data = super().read_nowait(max_bytes)
        if data is None:
            raise trio.WouldBlock
        return data


@broken("there came WouldBlock")
class RaisesWouldBlockWhenFull(Good):
    def write_nowait(self, data):
        if taken := super().write_nowait(data):
            return taken
        raise trio.WouldBlock

    async def write(self, data):
        return await self.inner.write(data)


@broken(r"read_nowait\(\d+\) is async")
class ReadsAsync(Good):
    async def read_nowait(self, max_bytes):  # type: ignore[override]
        return super().read_nowait(max_bytes)

    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken(r"write_nowait\(\d+ bytes\) is async")
class WritesAsync(Good):
    async def write_nowait(self, data):  # type: ignore[override]
        return super().write_nowait(data)

    async def write(self, data):
        return await self.inner.write(data)


@broken(r"interrupt\(\) is async")
class InterruptsAsync(Good):
    async def interrupt(self):  # type: ignore[override]
        super().interrupt()


@broken(r"close\(\) is async")
class ClosesAsync(Good):
    async def close(self):  # type: ignore[override]
        super().close()

    async def aclose(self):
        await self.inner.aclose()


@broken("wait_readable did not wait, though nothing had come")
class WaitReadableReturns(Good):
    async def wait_readable(self):
        await trio.lowlevel.checkpoint()

    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken("wait_writable does not wait where write_nowait gives 0")
class WaitWritableReturns(Good):
    async def wait_writable(self):
        await trio.lowlevel.checkpoint()

    async def write(self, data):
        return await self.inner.write(data)


@broken("reading can be tried: not over after 10 s, in (first|second).wait_readable")
class DeafToBytes(Good):
    async def wait_readable(self):
        if self.inner.read_nowait(0) is None:
            await trio.sleep_forever()
        await super().wait_readable()

    async def read(self, max_bytes):
        return await self.inner.read(max_bytes)


@broken("writing can be tried: not over after 10 s, in .*wait_writable")
class DeafToRoom(Good):
    async def wait_writable(self):
        if self.inner._out.size >= 3000:
            await trio.sleep_forever()
        await super().wait_writable()

    async def write(self, data):
        return await self.inner.write(data)


@broken("interrupt wakes wait_readable: not over after 10 s, in (first|second).wait_readable")
class NeverInterrupts(Good):
    def interrupt(self):
        pass


@broken("interrupt wakes wait_writable: not over after 10 s, in (first|second).wait_writable")
class InterruptsReadersOnly(Good):
    def interrupt(self):
        self.inner._interrupts += 1
        self.inner._reader.unpark_all()


@broken("interrupt wakes wait_readable: not over after 10 s, in (first|second).wait_readable")
class MissesAnEarlyInterrupt(Good):
    async def wait_readable(self):
        await trio.lowlevel.checkpoint()
        await super().wait_readable()


@broken("interrupt wakes wait_writable: not over after 10 s, in (first|second).wait_writable")
class MissesAnEarlyInterruptWhenFull(Good):
    async def wait_writable(self):
        await trio.lowlevel.checkpoint()
        await super().wait_writable()


@broken("interrupt wakes wait_readable: there came BrokenResourceError")
class InterruptBreaks(Good):
    def interrupt(self):
        super().interrupt()
        self.inner.fail("interrupted")


@broken("close closes at once: .*must raise ClosedResourceError|close closes at once: not over")
class ClosesLater(Good):
    def close(self):
        self.interrupt()

    async def aclose(self):
        await self.inner.aclose()


@pytest.mark.parametrize(("cls", "match"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
async def test_a_broken_transport_is_found_out(cls, match, autojump_clock):
    with pytest.raises(AssertionError, match=match):
        await check_transport(both(cls))


async def test_two_kinds_of_ends_keep_their_promises(autojump_clock):
    async def make_pair():
        one, other = await virtual_pair(Conditions(buffer=3000))
        return Good(one), GoodStream(other)

    await check_transport(make_pair)


@pytest.mark.parametrize("place", ["first", "second"])
async def test_either_end_is_checked(place, autojump_clock):
    async def make_pair():
        one, other = await virtual_pair(Conditions(buffer=3000))
        if place == "first":
            return NeverInterrupts(one), Good(other)
        return Good(one), NeverInterrupts(other)

    with pytest.raises(AssertionError, match=f"{place}.wait_readable"):
        await check_transport(make_pair)


async def test_in_real_time_patience_is_what_it_costs():
    with pytest.raises(AssertionError, match=r"not over after 0.05 s"):
        await check_transport(both(NeverEnds), patience=0.05)


async def test_an_end_that_is_no_transport_is_found_out():
    with pytest.raises(AssertionError, match="is no Transport"):
        await check_transport(tcp_streams)


async def test_a_stream_without_a_bound_is_found_out():
    with pytest.raises(AssertionError, match=r"does not wait when full|that nobody read"):
        await check_transport(in_memory)


async def test_a_check_can_be_cancelled(autojump_clock):
    """The test's own deadline is no broken promise."""
    with trio.move_on_after(1) as scope:
        await check_transport(both(NeverEnds))
    assert scope.cancelled_caught
