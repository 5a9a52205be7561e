"""The ways for credentials to come with the handshake, and several of them together."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

import trioweb
from tests.helpers import TEXT, Answer, asking, dialling, fetch, frame, serving, upgraded
from trioweb import (
    AnyOf,
    Basic,
    Bearer,
    CookieToken,
    FirstMessage,
    Login,
    MessageToken,
    NoCredentials,
    Passwords,
    QueryToken,
    Refused,
    Request,
    SubprotocolToken,
    Tokens,
    WebSocket,
    as_subprotocol,
)
from trioweb.auth import HandshakeCheck
from trioweb.testing import VirtualNetwork

SECRET = "s3cret-42"
KNOWN = Tokens({SECRET: "ann"})


async def check(token: str) -> str | None:
    """Know ann, and that mallory may not."""
    if token == "mallory-1":
        raise Refused("you may not", status=403)
    return await KNOWN(token)


async def whoami(ws: WebSocket) -> None:
    """Say who the peer is."""
    await ws.send(f"you are {ws.principal}")
    async for _ in ws:
        pass


class Carried(NamedTuple):
    """How a client brings a token by one of the ways."""

    way: HandshakeCheck
    path: str = "/"
    headers: Mapping[str, str] = {}
    subprotocols: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        return {"headers": dict(self.headers), "subprotocols": self.subprotocols}

    def asking(self) -> bytes:
        headers: dict[str, str | None] = dict(self.headers)
        if self.subprotocols:
            headers["Sec-WebSocket-Protocol"] = ", ".join(self.subprotocols)
        return asking(self.path, headers)


def bearer(token: str) -> Carried:
    return Carried(Bearer(check), headers={"Authorization": f"Bearer {token}"})


def basic(token: str) -> Carried:
    login = Login("ann", token)
    passwords = Basic(Passwords({"ann": SECRET}))
    return Carried(passwords, headers={"Authorization": login.authorization()})


def query(token: str) -> Carried:
    return Carried(QueryToken(check), path=f"/?token={token}")


def cookie(token: str) -> Carried:
    return Carried(CookieToken(check), headers={"Cookie": f"session={token}"})


def subprotocol(token: str) -> Carried:
    return Carried(SubprotocolToken(check), subprotocols=("chat", as_subprotocol(token)))


WAYS = {one.__name__: one for one in (bearer, basic, query, cookie, subprotocol)}
each_way = pytest.mark.parametrize("carry", WAYS.values(), ids=WAYS)
CHAT = ["chat"]


async def ask(carried: Carried, authenticate: Any = None) -> Answer:
    """Ask a server for an upgrade that it refuses."""
    async with serving(
        whoami, authenticate=authenticate or carried.way, subprotocols=CHAT
    ) as server:
        return await fetch(server, carried.asking())


# --- each way --------------------------------------------------------------------------------


@each_way
async def test_the_right_credentials_come_in(carry):
    carried = carry(SECRET)
    async with (
        serving(whoami, authenticate=carried.way, subprotocols=CHAT) as server,
        trioweb.connect(server.url + carried.path, **carried.options) as ws,
    ):
        assert await ws.receive() == "you are ann"


@each_way
async def test_so_they_do_over_the_virtual_network(carry, autojump_clock):
    carried, network = carry(SECRET), VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(
            whoami, 0, authenticate=carried.way, host="server", subprotocols=CHAT
        ) as server:
            with network.host("client"):
                url = server.url + carried.path
                async with trioweb.connect(url, **carried.options) as ws:
                    assert await ws.receive() == "you are ann"
                wrong = carry("wr0ng")
                with pytest.raises(trioweb.HandshakeRejected) as caught:
                    async with trioweb.connect(server.url + wrong.path, **wrong.options):
                        raise AssertionError("the block must not run")
    assert caught.value.status == 401


@each_way
async def test_the_wrong_ones_are_401(carry):
    answer = await ask(carry("wr0ng"))
    assert (answer.status, answer.body) == (401, b"wrong credentials\n")
    assert answer.headers["www-authenticate"].split()[0] in ("Bearer", "Basic")


@each_way
async def test_none_are_401(carry):
    answer = await ask(Carried(carry(SECRET).way))
    assert (answer.status, answer.body) == (401, b"credentials required\n")
    assert answer.headers["www-authenticate"].split()[0] in ("Bearer", "Basic")


@pytest.mark.parametrize("carry", [bearer, query, cookie, subprotocol])
async def test_who_is_known_but_not_allowed_is_403(carry):
    answer = await ask(carry("mallory-1"))
    assert (answer.status, answer.body) == (403, b"you may not\n")
    assert "www-authenticate" not in answer.headers


MALFORMED = [
    Carried(Bearer(check), headers={"Authorization": "Bearer a b"}),
    Carried(Basic(Passwords({})), headers={"Authorization": "Basic !"}),
    Carried(Basic(Passwords({})), headers={"Authorization": "Basic /w=="}),
    Carried(QueryToken(check), path="/?token=%ff"),
    Carried(CookieToken(check), headers={"Cookie": "session=a; session=b"}),
    Carried(SubprotocolToken(check), subprotocols=("chat", "token.a")),
    Carried(SubprotocolToken(check), subprotocols=("chat", "token._w")),
    Carried(QueryToken(check), path="/?token=" + "x" * 9000),
]


@pytest.mark.parametrize("carried", MALFORMED)
async def test_malformed_ones_are_401_and_not_checked(carried):
    answer = await ask(carried)
    assert (answer.status, answer.body) == (401, b"malformed credentials\n")


@pytest.mark.parametrize(
    ("carried", "challenge"),
    [
        (Carried(Bearer(check)), "Bearer"),
        (bearer("wr0ng"), 'Bearer error="invalid_token"'),
        (basic("wr0ng"), 'Basic realm="WebSocket", charset="UTF-8"'),
        (
            Carried(Basic(Passwords({}), realm="the arena")),
            'Basic realm="the arena", charset="UTF-8"',
        ),
        (cookie("wr0ng"), "Bearer"),
    ],
)
async def test_a_401_says_what_is_wanted(carried, challenge):
    assert (await ask(carried)).headers["www-authenticate"] == challenge


@pytest.mark.parametrize("realm", ['"', "\\", "é", "\r\nX-Evil: 1"])
def test_a_realm_that_would_break_its_header_is_refused(realm):
    with pytest.raises(ValueError, match="a realm is"):
        Basic(Passwords({}), realm=realm)


async def test_a_check_that_crashes_is_500():
    async def crash(token: str) -> None:
        raise RuntimeError("database is gone")

    answer = await ask(bearer(SECRET), Bearer(crash))
    assert (answer.status, answer.body) == (500, b"internal error\n")


async def test_names_and_prefixes_of_ones_own():
    for carried in (
        Carried(QueryToken(KNOWN, name="key"), path=f"/?key={SECRET}"),
        Carried(CookieToken(KNOWN, name="__Host-id"), headers={"Cookie": f"__Host-id={SECRET}"}),
        Carried(
            SubprotocolToken(KNOWN, prefix="auth."),
            subprotocols=("chat", as_subprotocol(SECRET, prefix="auth.")),
        ),
    ):
        async with (
            serving(whoami, authenticate=carried.way, subprotocols=CHAT) as server,
            trioweb.connect(server.url + carried.path, **carried.options) as ws,
        ):
            assert await ws.receive() == "you are ann"


# --- a token among the subprotocols ----------------------------------------------------------


async def test_the_token_is_neither_chosen_nor_sent_back():
    seen = []

    def choose(offered):
        seen.append(list(offered))
        return offered[0]

    token = as_subprotocol(SECRET)
    async with serving(whoami, authenticate=SubprotocolToken(check), subprotocols=choose) as server:
        for offered in ((token, "chat"), ("chat", token)):
            async with dialling(server) as peer:
                await peer.send(asking(headers={"Sec-WebSocket-Protocol": ", ".join(offered)}))
                head = await peer.head()
            assert b"101" in head.splitlines()[0]
            assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in head
            assert b"token" not in head
    assert seen == [["chat"], ["chat"]]


async def test_a_server_that_lists_the_token_does_not_choose_it_either():
    token = as_subprotocol(SECRET)
    async with (
        serving(whoami, authenticate=SubprotocolToken(check), subprotocols=[token]) as server,
        trioweb.connect(server.url, subprotocols=[token]) as ws,
    ):
        assert ws.subprotocol is None


async def test_without_subprotocols_browsers_could_not_connect():
    with pytest.raises(ValueError, match="give subprotocols="):
        async with serving(whoami, authenticate=SubprotocolToken(check)):
            raise AssertionError("the block must not run")


def test_without_a_prefix_all_would_be_tokens():
    with pytest.raises(ValueError, match="every subprotocol"):
        SubprotocolToken(check, prefix="")


# --- what browsers send by themselves --------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        CookieToken(check),
        Basic(Passwords({})),
        AnyOf(Bearer(check), CookieToken(check)),
        AnyOf(AnyOf(Basic(Passwords({}))), MessageToken(check)),
    ],
)
async def test_what_browsers_send_by_themselves_needs_the_check_of_origins(way):
    with pytest.raises(ValueError, match="origins=None"):
        async with serving(whoami, authenticate=way, origins=None):
            raise AssertionError("the block must not run")


@pytest.mark.parametrize("carry", [bearer, query, subprotocol])
async def test_what_pages_must_know_does_not(carry):
    headers = {"Origin": "https://elsewhere.example"}
    carried = carry(SECRET)
    async with (
        serving(whoami, authenticate=carried.way, origins=None, subprotocols=CHAT) as server,
        trioweb.connect(
            server.url + carried.path,
            headers={**carried.headers, **headers},
            subprotocols=carried.subprotocols,
        ) as ws,
    ):
        assert await ws.receive() == "you are ann"


@pytest.mark.parametrize("carry", [cookie, basic])
async def test_a_strange_page_gains_nothing_by_its_visitors_cookies(carry):
    carried = carry(SECRET)
    foreign = carried._replace(headers={**carried.headers, "Origin": "https://evil.example"})
    answer = await ask(foreign)
    assert (answer.status, answer.body) == (403, b"this origin is not allowed\n")


# --- several ---------------------------------------------------------------------------------

BOTH = AnyOf(Bearer(check), CookieToken(check))


@pytest.mark.parametrize("headers", [bearer(SECRET).headers, cookie(SECRET).headers])
async def test_any_of_several_ways_leads_in(headers):
    async with (
        serving(whoami, authenticate=BOTH) as server,
        trioweb.connect(server.url, headers=headers) as ws,
    ):
        assert await ws.receive() == "you are ann"


@pytest.mark.parametrize("wrong", ["wr0ng", "a b"])
async def test_the_next_way_counts_where_one_is_wrong(wrong):
    headers = {**bearer(wrong).headers, **cookie(SECRET).headers}
    async with (
        serving(whoami, authenticate=BOTH) as server,
        trioweb.connect(server.url, headers=headers) as ws,
    ):
        assert await ws.receive() == "you are ann"


async def test_403_is_the_last_word():
    headers = {**bearer("mallory-1").headers, **cookie(SECRET).headers}
    assert (await ask(Carried(BOTH, headers=headers))).status == 403


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, b"credentials required\n"),
        (bearer("wr0ng").headers, b"wrong credentials\n"),
        (cookie("wr0ng").headers, b"wrong credentials\n"),
        ({**bearer("a b").headers, **cookie("wr0ng").headers}, b"malformed credentials\n"),
    ],
)
async def test_the_first_that_is_wrong_is_said(headers, reason):
    answer = await ask(Carried(BOTH, headers=headers))
    assert (answer.status, answer.body) == (401, reason)


async def test_all_ways_are_offered():
    several = AnyOf(Bearer(check), Basic(Passwords({})), CookieToken(check))
    async with serving(whoami, authenticate=several) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url, headers=bearer("wr0ng").headers):
                raise AssertionError("the block must not run")
    assert caught.value.headers.get_all("WWW-Authenticate") == [
        "Bearer",
        'Basic realm="WebSocket", charset="UTF-8"',
    ]


async def test_a_check_of_the_request_may_be_among_them():
    async def by_path(request: Request) -> str:
        if request.path != "/guests":
            raise NoCredentials("not for guests")
        return "a guest"

    async with serving(whoami, authenticate=AnyOf(by_path, Bearer(check))) as server:
        async with trioweb.connect(server.url + "/guests") as ws:
            assert await ws.receive() == "you are a guest"
        async with trioweb.connect(server.url, headers=bearer(SECRET).headers) as ws:
            assert await ws.receive() == "you are ann"
        assert (await fetch(server, asking())).body == b"not for guests\n"


async def test_a_first_message_may_come_last():
    first = AnyOf(Bearer(check), MessageToken(check, code=4401))
    async with serving(whoami, authenticate=first) as server:
        async with trioweb.connect(server.url, headers=bearer(SECRET).headers) as ws:
            assert await ws.receive() == "you are ann"
        async with trioweb.connect(server.url) as ws:
            await ws.send(SECRET)
            assert await ws.receive() == "you are ann"
        async with trioweb.connect(server.url) as ws:
            await ws.send("wr0ng")
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await ws.receive()
        # A wrong token has no second chance.
        assert (await fetch(server, bearer("wr0ng").asking())).status == 401
    assert (caught.value.code, caught.value.reason) == (4401, "wrong credentials")


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        ((), "at least one way"),
        ((MessageToken(check),), "at least one way"),
        ((MessageToken(check), Bearer(check)), "comes last"),
        ((AnyOf(Bearer(check), MessageToken(check)), Bearer(check)), "comes last"),
        ((Bearer(check), None), "let everybody in"),
    ],
)
def test_ways_that_make_no_sense_together(ways, message):
    with pytest.raises(ValueError, match=message):
        AnyOf(*ways)


# --- a token in the first message ------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("wr0ng", "wrong credentials"),
        ("", "malformed credentials"),
        ("two\nlines", "malformed credentials"),
        ("x" * 9000, "malformed credentials"),
        (SECRET.encode(), "malformed credentials"),
        ("mallory-1", "you may not"),
    ],
)
async def test_a_first_message_that_is_no_right_token(sent, reason):
    async with (
        serving(whoami, authenticate=MessageToken(check)) as server,
        trioweb.connect(server.url) as ws,
    ):
        await ws.send(sent)
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
    assert (caught.value.code, caught.value.reason) == (1008, reason)


# --- no token in any log ---------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("token", [SECRET, "wr0ng-777", "mallory-1"])
async def test_no_token_is_in_any_log_or_repr(carry, token, caplog):
    caplog.set_level(logging.DEBUG)
    carried = carry(token)
    texts: list[str] = []

    async def fail(ws: WebSocket) -> None:
        texts.extend(map(repr, (ws, ws.request, ws.request.headers, ws.response, ws.credential)))
        texts.extend(map(str, (ws, ws.request, ws.request.headers, ws.response)))
        raise RuntimeError("a bug")

    async with serving(fail, authenticate=carried.way, subprotocols=CHAT) as server:
        try:
            async with trioweb.connect(server.url + carried.path, **carried.options) as ws:
                texts.extend(map(repr, (ws, ws.request, ws.request.headers)))
                await ws.receive()
        except trioweb.TriowebError as error:
            texts += traceback.format_exception(error)
            texts += [repr(error), repr(vars(error))]
        headers = {name: value + "\x00" for name, value in carried.headers.items()}
        for path, options in (
            (carried.path + "\x00", {}),
            ("/", {"headers": headers or {"a b": "c"}}),
            ("/", {"subprotocols": [*carried.subprotocols, "a b"]}),
        ):
            with pytest.raises(ValueError) as caught:  # noqa: PT011 - any of them
                async with trioweb.connect(server.url + path, **options):
                    raise AssertionError("the block must not run")
            texts += traceback.format_exception_only(caught.value)
    texts += [repr(carried.way), caplog.text]
    texts += [repr(vars(record)) for record in caplog.records if not record.exc_info]
    assert "ended" in caplog.text or "answered" in caplog.text
    for form in (token, as_subprotocol(token), Login("ann", token).authorization()[6:]):
        assert [text for text in texts if form in text] == []


async def test_the_first_message_is_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    async with serving(whoami, authenticate=MessageToken(check)) as server:
        for token in (SECRET, "wr0ng-777"):
            async with upgraded(server, behind=frame(TEXT, token)) as peer:
                await peer.frame()
    assert SECRET not in caplog.text
    assert "wr0ng-777" not in caplog.text


def test_a_first_message_takes_its_options_too():
    assert isinstance(MessageToken(check, timeout=3, code=4401), FirstMessage)
    with pytest.raises(ValueError, match="timeout"):
        MessageToken(check, timeout=0)
