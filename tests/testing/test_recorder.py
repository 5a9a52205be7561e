"""The recorder: lines that people can read and programs can, within bounds, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.helpers import BINARY, CONTINUATION, PING, TEXT, asking, echo, frame, header
from trioweb import connect, open_server
from trioweb.testing import (
    Conditions,
    Entry,
    HalfOpen,
    Partition,
    Recorder,
    Reset,
    VirtualNetwork,
    parse_recording,
    run,
)
from trioweb.testing.sniffer import FRAME_KIND
from trioweb.testing.wires import VirtualStream

CLIENT, SERVER = ("client", 49152), ("server", 80)
HEAD = asking()


def recorded(
    script: Callable[[VirtualStream, VirtualStream], Awaitable[object]],
    recorder: Recorder | None = None,
) -> Recorder:
    """Record what a script does with the two ends of a connection."""
    recorder = recorder or Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)
        with network.host("server") as server:
            (listener,) = await server.open_listeners(80, None)
        with network.host("client") as client:
            one = await client.open_stream("server", 80)
        other = await listener.accept()
        assert isinstance(one, VirtualStream)
        assert isinstance(other, VirtualStream)
        await script(one, other)

    run(main, seed=0)
    return recorder


def lines(recorder: Recorder) -> list[str]:
    return str(recorder).splitlines()


def whats(recorder: Recorder) -> list[str]:
    """Return the lines without time and addresses."""
    return [line.split(" ", 4)[4] for line in lines(recorder)]


# Lines.


awkward = st.sampled_from(
    [
        *("\0", "\n", "\r", "\t", "\x1b[31m", "\x7f", "\x85", "\xa0", "\xad", "\ufeff"),
        *("\u2028", "\u2029", '"', "'", "\\", "\\n", " ", " ...", "0x00", "é", "\ue000"),
        *("😀", "👩\u200d🚀", "\U000e0001", "\U0010ffff"),
    ]
)
texts = st.lists(st.one_of(awkward, st.text(max_size=5)), max_size=5).map("".join)
payloads = st.one_of(st.binary(max_size=20), texts.map(str.encode), st.just(b"caf\xc3"))
addresses = st.tuples(
    st.one_of(texts, st.sampled_from(["client", "::1", "a:1", "a > b", "", "a\\u0020b"])),
    st.integers(0, 65535),
)
frame_kinds = st.from_regex(FRAME_KIND, fullmatch=True)
kinds = st.one_of(
    st.sampled_from(["http", "bytes", "text", "binary+", "continuation", "close", "ping", "pong"]),
    frame_kinds,
)
closes = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.integers(0, 65535),
    st.one_of(texts.map(str.encode), st.binary(max_size=10)),
)
#: As trio's clock has them: up to some weeks, in microseconds.
times = st.integers(0, 10**13).map(lambda micros: round(micros / 10**6, 6))
events = st.builds(
    Entry,
    times,
    addresses,
    addresses,
    st.sampled_from(["connect", "eof", "closed", "reset", "vanished"]),
)


@st.composite
def frame_entries(draw: st.DrawFn) -> Entry:
    kind = draw(kinds)
    data = draw(st.one_of(payloads, closes) if kind.startswith("close") else payloads)
    size = len(data) + draw(st.sampled_from([0, 0, 1, 10**20]))
    return Entry(draw(times), draw(addresses), draw(addresses), kind, size, data)


entries = st.one_of(events, frame_entries())


@given(entries)
@example(Entry(0.0, CLIENT, SERVER, "close", 1, b"\x03"))
@example(Entry(0.0, CLIENT, SERVER, "close", 5, b"\x03\xe8\xff\xfe\xfd"))
@example(Entry(0.0, CLIENT, SERVER, "close", 9, b"\x03\xe8by"))
@example(Entry(0.0, CLIENT, SERVER, "text", 5, b""))
@example(Entry(0.0, CLIENT, SERVER, "text", 9, b'a" ...'))
def test_every_line_parses_back_to_an_equal_entry(entry):
    line = str(entry)
    assert line.isprintable()
    assert line.strip() == line
    assert Entry.parse(line) == entry
    assert str(Entry.parse(line)) == line


@given(st.lists(entries, max_size=5))
def test_a_recording_parses_back_from_its_text_its_lines_and_a_file(recorded):
    recorder = Recorder(recorded)
    text = str(recorder)
    assert text.count("\n") == len(text.splitlines()) == len(recorded)
    assert parse_recording(text) == recorded
    assert parse_recording(text.splitlines()) == recorded
    assert parse_recording(text.splitlines(keepends=True)) == recorded
    assert parse_recording("\r\n".join(["", *text.splitlines(), "", ""])) == recorded
    assert str(Recorder(parse_recording(text))) == text


def test_a_file_can_be_parsed_as_it_is(tmp_path):
    recorder = Recorder([Entry(0.5, CLIENT, SERVER, "connect"), hello(1)])
    path = tmp_path / "recording.txt"
    path.write_text(str(recorder), encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        assert parse_recording(file) == recorder.entries


def test_blank_lines_and_indentation_do_not_matter():
    assert parse_recording("") == parse_recording(" \n\n") == []
    text = """
        0.500000 client:49152 > server:80 connect

        0.750000 client:49152 > server:80 text 5 "hello"
    """
    assert parse_recording(text) == [Entry(0.5, CLIENT, SERVER, "connect"), hello(0.75)]


def hello(time: float) -> Entry:
    return Entry(time, CLIENT, SERVER, "text", 5, b"hello")


@pytest.mark.parametrize(
    ("kind", "data", "shown"),
    [
        ("text", b"hello", '5 "hello"'),
        ("text+", "é😀".encode(), '6 "é😀"'),
        ("text", b"", "0"),
        ("text", b'a"b\\c\n\t\0\x7f', r'9 "a\"b\\c\n\t\u0000\u007f"'),
        ("text", "\u2028\x85\u202e".encode(), r'8 "\u2028\u0085\u202e"'),
        ("text", "\U000e0001".encode(), r'4 "\udb40\udc01"'),
        ("text", b"caf\xc3", "4 0x636166c3"),
        ("text-unmasked", b"hello", '5 "hello"'),
        ("text-rsv4", b"hello", "5 0x68656c6c6f"),
        ("binary", b"hello", "5 0x68656c6c6f"),
        ("continuation", b"hello", '5 "hello"'),
        ("ping", b"hello", '5 "hello"'),
        ("ping", b"\xff", "1 0xff"),
        ("close", b"", "0"),
        ("close", b"\x03", "1 0x03"),
        ("close", b"\x03\xe8", "2 1000"),
        ("close", b"\x03\xe7bye", '5 999 "bye"'),
        ("close", b"\x03\xe8\xff", "3 1000 0xff"),
        ("opcode-3", b"hello", "5 0x68656c6c6f"),
        (
            "http",
            b"GET / HTTP/1.1\r\nA: caf\xe9\r\n\r\n",
            r'27 "GET / HTTP/1.1\r\nA: café\r\n\r\n"',
        ),
        ("bytes", b"a page\r\n", r'8 "a page\r\n"'),
        ("bytes", b"\x01\x05he", "4 0x01056865"),
    ],
)
def test_a_payload_is_shown_as_what_it_is(kind, data, shown):
    entry = Entry(0.15, CLIENT, SERVER, kind, len(data), data)
    assert str(entry) == f"0.150000 client:49152 > server:80 {kind} {shown}"
    assert Entry.parse(str(entry)) == entry


def test_a_payload_that_was_cut_is_shown_so():
    entry = Entry(0.15, CLIENT, SERVER, "text", 10, b"hello")
    assert entry.is_cut
    assert str(entry) == '0.150000 client:49152 > server:80 text 10 "hello" ...'
    assert not hello(0).is_cut
    assert not Entry(0, CLIENT, SERVER, "closed").is_cut


GOOD = '0.150000 client:49152 > server:80 text 5 "hello"'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "it does not begin as one does"),
        ("{", "it does not begin as one does"),
        (GOOD.replace(">", "<"), "it does not begin as one does"),
        (GOOD.replace(" > ", "  >  "), "it does not begin as one does"),
        (GOOD.replace("0.150000", "soon"), "could not convert string to float: 'soon'"),
        (GOOD.replace("0.150000", "nan"), "the time is nan"),
        (GOOD.replace("0.150000", "1e999"), "the time is 1e999"),
        (GOOD.replace(":80", ""), "'server' has no port"),
        (GOOD.replace("80", "http"), "not a number: 'http'"),
        (GOOD.replace("80", "٨٠"), "not a number: '٨٠'"),
        (GOOD.replace("80", "-1"), "not a number: '-1'"),
        (GOOD.replace("client", 'a"b'), "Extra data: "),
        (GOOD.replace("text", "txet"), "there is no kind 'txet'"),
        (GOOD.replace("text", "text-rsv9"), "there is no kind 'text-rsv9'"),
        (GOOD.replace("text", "closed"), "behind 'closed' comes nothing"),
        ("0.1 client:1 > server:80 text", "its size is missing"),
        ("0.1 client:1 > server:80 text many", "not a number: 'many'"),
        ("0.1 client:1 > server:80 text 1_0", "not a number: '1_0'"),
        (GOOD.replace(" 5 ", " -5 "), "not a number: '-5'"),
        (GOOD.replace("hello", "hullo!"), "its payload is 6 bytes, not 5"),
        (GOOD.replace("hello", "hey"), "its payload is 3 bytes, not 5"),
        ("0.1 client:1 > server:80 text 5", "its payload is 0 bytes, not 5"),
        (GOOD + " ...", "its payload is 5 bytes, not 5"),
        (GOOD.replace('"hello"', "hello"), 'a payload is written as "..." or 0x..., not hello'),
        (GOOD.replace('"hello"', '"'), 'a payload is written as "..." or 0x..., not "'),
        (GOOD.replace('"hello"', "12345"), 'a payload is written as "..." or 0x..., not 12345'),
        (GOOD.replace('"hello"', "[" * 100_000), "a payload is written as"),
        (GOOD.replace("hello", 'h"e"o'), "Extra data: "),
        (GOOD.replace("hello", r"\x"), 'escape: "'),
        (GOOD.replace("hello", r"\ud800"), "surrogates not allowed"),
        (GOOD.replace('"hello"', "0x123"), "fromhex"),
        (GOOD.replace('"hello"', "0xgg"), "fromhex"),
        ("0.1 client:1 > server:80 close 2 70000", "a close code has two bytes, not 70000"),
        ('0.1 client:1 > server:80 close 3 "bye"', "not a number: '\"bye\"'"),
        ("0.1 client:1 > server:80 close 5 1000 bye", "a payload is written as"),
        ("0.1 client:1 > server:80 close 5 soon", "not a number: 'soon'"),
    ],
)
def test_a_line_that_is_none_is_named_with_its_number_and_the_reason(line, reason):
    text = f"{GOOD}\n\n{line}\n{GOOD}\n"
    with pytest.raises(ValueError, match=reason) as caught:
        parse_recording(text)
    message = str(caught.value)
    assert message.startswith("line 3: not a line of a recording: ")
    assert repr(line)[1:40] in message
    assert len(message) < 300


@given(st.text(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 5))
def test_no_damage_to_a_line_raises_anything_else(noise, at, removed):
    try:
        entry = Entry.parse(GOOD[:at] + noise + GOOD[at + removed :])
    except ValueError:
        return
    assert Entry.parse(str(entry)).data == entry.data


# What is recorded.


def test_a_connection_from_its_beginning_to_its_end():
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork(conditions=Conditions(latency=0.05))
        network.taps.append(recorder)
        with network.host("server"):
            async with open_server(echo, 80):
                with network.host("client"):
                    async with connect("ws://server") as ws:
                        await ws.send("hello")
                        assert await ws.receive() == "hello"
                        await trio.sleep(1)
                        await ws.send(b"\0\xff")
                        await ws.aclose(1000, "bye")

    run(main, seed=0)
    heads = [entry for entry in recorder.entries if entry.kind == "http"]
    assert [(head.time, head.source) for head in heads] == [(0.1, CLIENT), (0.15, SERVER)]
    assert heads[0].data.startswith(b"GET / HTTP/1.1\r\n")
    assert heads[1].data.startswith(b"HTTP/1.1 101 ")
    assert [line for line in lines(recorder) if " http " not in line] == [
        "0.100000 client:49152 > server:80 connect",
        '0.200000 client:49152 > server:80 text 5 "hello"',
        '0.250000 server:80 > client:49152 text 5 "hello"',
        "1.300000 client:49152 > server:80 binary 2 0x00ff",
        '1.300000 client:49152 > server:80 close 5 1000 "bye"',
        "1.350000 server:80 > client:49152 binary 2 0x00ff",
        "1.350000 server:80 > client:49152 close 2 1000",
        "1.350000 server:80 > client:49152 closed",
        "1.400000 client:49152 > server:80 closed",
    ]


def test_a_frame_stands_at_the_time_of_its_last_byte():
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD)
        data = frame(TEXT, "hello")
        for at in range(len(data)):
            await trio.sleep(1)
            await one.send_all(data[at : at + 1])

    assert lines(recorded(script))[-1] == '11.000000 client:49152 > server:80 text 5 "hello"'


@given(st.lists(st.floats(0, 1000), max_size=8))
def test_times_are_in_microseconds_so_that_they_survive_the_text(naps):
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD)
        for nap in naps:
            await trio.sleep(nap)
            await one.send_all(frame(PING))

    recorder = recorded(script)
    assert parse_recording(str(recorder)) == recorder.entries
    assert len(recorder.entries) == 2 + len(naps)


def test_fragments_and_what_is_wrong_with_a_frame_are_told():
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD + frame(TEXT, "a", fin=False) + frame(CONTINUATION, "b"))
        await one.send_all(frame(TEXT, "c", rsv=4) + frame(3, "d") + frame(TEXT, "e", mask=None))
        await other.send_all(
            b"HTTP/1.1 101 Yes\r\n\r\n" + frame(TEXT, "f") + frame(PING, mask=None)
        )

    assert [what for what in whats(recorded(script)) if "http" not in what] == [
        "connect",
        'text+ 1 "a"',
        'continuation 1 "b"',
        "text-rsv4 1 0x63",
        "opcode-3 1 0x64",
        'text-unmasked 1 "e"',
        'text-masked 1 "f"',
        "ping 0",
    ]


def test_a_page_can_be_read():
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)
        with network.host("server"):
            async with open_server(echo, 80):
                with network.host("client") as client:
                    stream = await client.open_stream("server", 80)
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                while await stream.receive_some():
                    pass
                await stream.aclose()

    run(main, seed=0)
    assert r'bytes 20 "this is a WebSocket\n"' in whats(recorder)


ENDS: dict[str, tuple[Callable[[VirtualStream], object], str]] = {
    "closed": (VirtualStream.close, "closed"),
    "reset": (lambda stream: stream.fail("reset"), "reset"),
    "vanished": (lambda stream: stream.fail("vanished"), "vanished"),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("opener", [True, False])
def test_what_an_end_cuts_off_is_bytes(how, opener):
    part = frame(TEXT, "hello")[:7]
    end, _ = ENDS[how]

    async def script(one: VirtualStream, other: VirtualStream) -> None:
        stream = one if opener else other
        await one.send_all(HEAD)
        await other.send_all(b"HTTP/1.1 101 Yes\r\n\r\n")
        await stream.send_all(part)
        await trio.sleep(2)
        end(stream)
        end(stream)

    way = "client:49152 > server:80" if opener else "server:80 > client:49152"
    recorder = recorded(script)
    assert lines(recorder)[3:] == [
        f"2.000000 {way} bytes 7 0x{part.hex()}",
        f"2.000000 {way} {how}",
    ]
    assert parse_recording(str(recorder)) == recorder.entries


def test_an_end_of_sending_cuts_off_too_and_is_told_once():
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD + header(BINARY, 10))
        await one.send_eof()
        await one.send_eof()
        await one.aclose()
        await other.aclose()

    # The server closes with the request unread, which the client, being gone, does not hear.
    assert whats(recorded(script))[2:] == ["bytes 2 0x828a", "eof", "closed", "closed"]


@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        (Reset(), ["client:49152 > server:80 reset", "server:80 > client:49152 reset"]),
        (
            Reset(after_bytes=9),
            ["client:49152 > server:80 reset", "server:80 > client:49152 reset"],
        ),
        (HalfOpen(), ["client:49152 > server:80 vanished", "server:80 > client:49152 closed"]),
        (
            HalfOpen("server"),
            ["server:80 > client:49152 vanished", "client:49152 > server:80 closed"],
        ),
    ],
)
def test_faults_of_a_link_are_told_of_both_ends(fault, ends):
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)
        with network.host("server") as server:
            (listener,) = await server.open_listeners(80, None)
        with network.host("client") as client:
            one = await client.open_stream("server", 80)
        other = await listener.accept()
        await one.send_all(HEAD)
        network.link("client", "server").inject(fault)
        with suppress(trio.BrokenResourceError):
            await one.send_all(frame(TEXT, "hello"))
        await other.aclose()
        await one.aclose()

    run(main, seed=0)
    told = [line.split(" ", 1)[1] for line in lines(recorder)]
    assert [line for line in told if line.split()[-1] in ("reset", "vanished", "closed")][
        :2
    ] == ends
    if fault == Reset(after_bytes=9):
        assert f"client:49152 > server:80 bytes 9 0x{frame(TEXT, 'hello')[:9].hex()}" in told


def test_several_connections_stay_apart_even_where_their_bytes_alternate():
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)
        with network.host("server") as server:
            (listener,) = await server.open_listeners(80, None)
        streams = []
        for name in ("alice", "bob", "alice"):
            with network.host(name) as host:
                streams.append(await host.open_stream("server", 80))
            await listener.accept()
        payloads = [f"hello from {number}" for number in range(3)]
        messages = [HEAD + frame(TEXT, payload) for payload in payloads]
        for at in range(len(messages[0])):
            for stream, message in zip(streams, messages, strict=True):
                await stream.send_all(message[at : at + 1])

    run(main, seed=0)
    assert [
        (entry.source, entry.data.decode()) for entry in recorder.entries if entry.kind == "text"
    ] == [
        (("alice", 49152), "hello from 0"),
        (("bob", 49152), "hello from 1"),
        (("alice", 49153), "hello from 2"),
    ]
    assert recorder.messages("alice", "server") == ["hello from 0", "hello from 2"]
    assert recorder.messages("alice:49153", "server:80") == ["hello from 2"]
    assert len(recorder.between("bob", "server")) == 3
    assert recorder.between("server", "bob") == recorder.between("carol", "server") == []
    assert recorder.between("alice:49152", "server") == [
        entry for entry in recorder.entries if entry.source == ("alice", 49152)
    ]


@pytest.mark.parametrize("mask", [b"\1\2\3\4", None])
def test_a_recorder_may_join_in_the_midst_of_a_connection(mask):
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        with network.host("server") as server:
            (listener,) = await server.open_listeners(80, None)
        with network.host("client") as client:
            one = await client.open_stream("server", 80)
        other = await listener.accept()
        await one.send_all(HEAD + frame(TEXT, "before"))
        network.taps.append(recorder)
        await one.send_all(frame(TEXT, "after", mask=mask))
        await other.send_all(frame(TEXT, "answer", mask=mask))

    run(main, seed=0)
    assert whats(recorder) == ['text 5 "after"', 'text 6 "answer"']


def test_an_end_that_never_said_a_word():
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.aclose()
        await other.aclose()

    assert whats(recorded(script)) == ["connect", "closed", "closed"]


# Bounds.


def test_the_last_lines_are_kept_and_the_others_counted():
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD + b"".join(frame(TEXT, str(number)) for number in range(20)))

    recorder = recorded(script, Recorder(max_lines=3))
    assert [entry.data for entry in recorder.entries] == [b"17", b"18", b"19"]
    assert recorder.dropped == 22 - 3


@pytest.mark.parametrize("max_bytes", [1, 5, 50, 100, 1000])
@given(sizes=st.lists(st.integers(0, 120), max_size=20))
def test_the_last_bytes_are_kept_and_the_lines_without_them_counted(max_bytes, sizes):
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD + b"".join(frame(BINARY, payload) for payload in payloads))

    recorder = recorded(script, Recorder(max_bytes=max_bytes))
    expected = [b"", HEAD[:max_bytes], *(payload[:max_bytes] for payload in payloads)]
    while sum(map(len, expected)) > max_bytes:
        del expected[0]
    assert [entry.data for entry in recorder.entries] == expected
    assert recorder.dropped == 2 + len(payloads) - len(expected)
    last = recorder.entries[-1:]
    assert [entry.size for entry in last] == sizes[-1:] or not sizes


def test_a_payload_beyond_the_whole_bound_is_cut_and_the_next_one_is_whole():
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD + frame(TEXT, "a" * 1000))

    recorder = recorded(script, Recorder(max_bytes=10))
    assert whats(recorder) == ['text 1000 "aaaaaaaaaa" ...']
    assert recorder.dropped == 2

    async def longer(one: VirtualStream, other: VirtualStream) -> None:
        await script(one, other)
        await one.send_all(frame(TEXT, "b"))

    recorder = recorded(longer, Recorder(max_bytes=10))
    assert whats(recorder) == ['text 1 "b"']
    assert recorder.dropped == 3


@pytest.mark.parametrize("bounds", [{"max_lines": 0}, {"max_bytes": 0}, {"max_lines": -1}])
def test_bounds_that_keep_nothing_make_no_sense(bounds):
    with pytest.raises(ValueError, match="max_lines and max_bytes must be positive"):
        Recorder(**bounds)


def test_a_recording_of_before_is_held_whole_until_something_comes_behind_it():
    before = [hello(number) for number in range(20)]
    assert Recorder(before, max_bytes=10, max_lines=3).entries == before

    async def script(one: VirtualStream, other: VirtualStream) -> None:
        await one.send_all(HEAD)

    recorder = recorded(script, Recorder(before, max_lines=3))
    assert recorder.dropped == 19
    assert [entry.kind for entry in recorder.entries] == ["text", "connect", "http"]
    recorder = recorded(script, Recorder(before, max_bytes=len(HEAD) + 10))
    assert [entry.kind for entry in recorder.entries] == ["text", "text", "connect", "http"]


def test_the_entries_are_those_of_now_and_ones_own():
    recorder = Recorder([hello(0)])
    before = recorder.entries
    before.clear()
    assert recorder.entries == [hello(0)]


# Messages.


pieces = st.lists(
    st.tuples(
        st.sampled_from(["text", "binary"]),
        texts,
        st.lists(st.integers(0, 6), max_size=3),
        st.booleans(),
    ),
    max_size=5,
)


@given(one=pieces, other=pieces, turns=st.lists(st.booleans(), max_size=40))
def test_messages_are_joined_of_their_fragments_whatever_comes_between(one, other, turns):
    def entries_of(source: tuple[str, int], drawn: list) -> list[Entry]:
        found = []
        for kind, text, cuts, ping in drawn:
            rest, name = text.encode(), kind
            for cut in cuts:
                found.append(Entry(0, source, SERVER, f"{name}+", len(rest[:cut]), rest[:cut]))
                rest, name = rest[cut:], "continuation"
                if ping:
                    found.append(Entry(0, source, SERVER, "ping", 1, b"?"))
            found.append(Entry(0, source, SERVER, name, len(rest), rest))
        return found

    left = [entries_of(("a", 1), one), entries_of(("a", 2), other)]
    mixed: list[Entry] = []
    for turn in turns:
        mixed += left[turn][:1]
        del left[turn][:1]
    recorder = Recorder(mixed + left[0] + left[1])
    for name, drawn in (("a:1", one), ("a:2", other)):
        assert recorder.messages(name, "server") == [
            text if kind == "text" else text.encode() for kind, text, _, _ in drawn
        ]
    assert len(recorder.messages("a", "server")) == len(one) + len(other)


def test_what_is_no_whole_message_is_none():
    def entry(kind: str, data: bytes) -> Entry:
        return Entry(0, CLIENT, SERVER, kind, len(data), data)

    recorder = Recorder(
        [
            *(entry("continuation", b"of what?"), entry("http", HEAD), entry("text-rsv4", b"x")),
            *(entry("text", b"\xff"), entry("bytes", b"\x81"), entry("opcode-3", b"x")),
            *(entry("text-unmasked", b"x"), entry("text+", b"a"), entry("continuation+", b"b")),
        ]
    )
    assert recorder.messages("client", "server") == ["\ufffd"]
    end = entry("continuation", b"c")
    recorder = Recorder([*recorder.entries, end, end])
    assert recorder.messages("client", "server") == ["\ufffd", "abc"]


def test_messages_that_were_cut_cannot_be_compared():
    recorder = Recorder([Entry(0, CLIENT, SERVER, "text", 9, b"hello")])
    with pytest.raises(ValueError, match=r'this line\'s payload was cut: .* text 9 "hello" \.\.\.'):
        recorder.messages("client", "server")
    assert recorder.messages("server", "client") == []


def test_a_recording_under_a_partition_stands_at_the_time_of_sending():
    recorder = Recorder()
    arrived: list[float] = []

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)

        async def take(ws) -> None:
            await ws.receive()
            arrived.append(trio.current_time())

        with network.host("server"):
            async with open_server(take, 80):
                with network.host("client"):
                    async with connect("ws://server") as ws:
                        network.link("client", "server").inject(Partition(5))
                        await trio.sleep(1)
                        await ws.send("hello")
                        await trio.sleep(9)

    run(main, seed=0)
    assert [entry.time for entry in recorder.entries if entry.kind == "text"] == [1]
    assert arrived == [5]


@given(data=st.binary(max_size=200), cut=st.integers(1, 50))
def test_a_tap_swallows_anything(data, cut):
    async def script(one: VirtualStream, other: VirtualStream) -> None:
        for stream in (one, other):
            for at in range(0, len(data), cut):
                await stream.send_all(data[at : at + cut])
        await one.aclose()
        await other.aclose()

    assume(data)
    recorder = recorded(script, Recorder(max_bytes=10**6))
    assert parse_recording(str(recorder)) == recorder.entries
    assert sum(entry.size or 0 for entry in recorder.entries) <= 2 * len(data)
