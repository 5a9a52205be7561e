"""The messages of the arena, as JSON text. One struct a message, told apart by ``"t"``.

=========  =========  ==========================================================================
direction  ``"t"``    meaning
=========  =========  ==========================================================================
to server  join       the first message: a name, and a key that lets the same browser come back
to server  input      a direction for one step, numbered
to server  ping       a time of the client's, to be sent back
to client  welcome    the player's id and the rules
to client  state      what changed since an earlier state; see `State`
to client  pong       the time of the ping
to client  error      an input was ignored, and why
=========  =========  ==========================================================================

msgspec checks types and ranges while it decodes and names the place that is wrong, as in
``Expected `float` <= 1.0 - at `$.dx```. What needs the world to judge is `world.World.accept`'s.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from .world import Rules

__all__ = [
    "Changes",
    "CoinRow",
    "Error",
    "FromClient",
    "FromServer",
    "Input",
    "Join",
    "MalformedError",
    "Ping",
    "PlayerRow",
    "Pong",
    "State",
    "Welcome",
    "decode",
    "decode_changes",
    "decode_from_server",
    "decode_join",
    "encode",
    "encode_raw",
]

Sequence: TypeAlias = Annotated[int, Meta(ge=1, le=2**53)]
Share: TypeAlias = Annotated[float, Meta(ge=-1, le=1)]


class MalformedError(ValueError):
    """A message that is none of ours; the text names the place that is wrong."""


class Join(msgspec.Struct, frozen=True, tag_field="t", tag="join", forbid_unknown_fields=True):
    """The first message. The key is the client's own secret: whoever has it may take over."""

    name: Annotated[str, Meta(max_length=64)]
    key: Annotated[str, Meta(max_length=64)] = ""


class Input(msgspec.Struct, frozen=True, tag_field="t", tag="input", forbid_unknown_fields=True):
    """A direction for one step. The numbers rise; gaps are allowed."""

    seq: Sequence
    dx: Share
    dy: Share


class Ping(msgspec.Struct, frozen=True, tag_field="t", tag="ping", forbid_unknown_fields=True):
    """Browsers cannot send WebSocket pings, so that the page measures its round trip with this."""

    at: float


class Welcome(msgspec.Struct, frozen=True, tag_field="t", tag="welcome"):
    """The answer to `Join`."""

    id: int
    #: As shown: spaces and Unicode forms may differ from what was asked for.
    name: str
    rules: Rules


class PlayerRow(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={"id": "i", "score": "s", "name": "n", "hue": "h", "bot": "b"},
):
    """A player that is new, or those fields of one that changed."""

    id: int
    x: int | UnsetType = UNSET
    y: int | UnsetType = UNSET
    score: int | UnsetType = UNSET
    name: str | UnsetType = UNSET
    hue: int | UnsetType = UNSET
    bot: bool | UnsetType = UNSET


class CoinRow(msgspec.Struct, frozen=True, array_like=True):
    """A coin that is new: ``[id, x, y, value]``. Coins never change, so there is no less."""

    id: int
    x: int
    y: int
    value: int


class Changes(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={"players": "p", "coins": "c", "players_gone": "pg", "coins_gone": "cg"},
):
    """The way from one view of the world to another; what is empty is left out."""

    players: tuple[PlayerRow, ...] = ()
    coins: tuple[CoinRow, ...] = ()
    players_gone: tuple[int, ...] = ()
    coins_gone: tuple[int, ...] = ()


class State(
    msgspec.Struct,
    frozen=True,
    tag_field="t",
    tag="state",
    rename={"number": "n", "velocity": "v", "changes": "w"},
):
    """View ``number`` of the world, told as the changes since view ``since``.

    ``since`` is 0 for a full snapshot: everything is new compared with nothing. The changes are
    the same for all clients that are at the same ``since``, so they stay raw here and are
    encoded once for all of them. The rest is this client's own: the last of its inputs that is
    in this view, and its velocity, which others do not need.
    """

    number: int
    since: int
    tick: int
    ack: int
    velocity: tuple[int, int]
    changes: Raw


class Pong(msgspec.Struct, frozen=True, tag_field="t", tag="pong"):
    """The answer to `Ping`."""

    at: float


class Error(msgspec.Struct, frozen=True, tag_field="t", tag="error"):
    """A message was ignored. Whoever collects too many of these is closed with 1008."""

    reason: str


FromClient: TypeAlias = Join | Input | Ping
FromServer: TypeAlias = Welcome | State | Pong | Error

_encoder = msgspec.json.Encoder()
_from_client: msgspec.json.Decoder[FromClient] = msgspec.json.Decoder(FromClient)
_from_server: msgspec.json.Decoder[FromServer] = msgspec.json.Decoder(FromServer)
_changes = msgspec.json.Decoder(Changes)


def encode(message: FromClient | FromServer) -> str:
    """Return the text of a message."""
    return _encoder.encode(message).decode()


def encode_raw(changes: Changes) -> Raw:
    """Encode changes once, to go into the `State` of several clients."""
    return Raw(_encoder.encode(changes))


def decode(message: str | bytes) -> FromClient:
    """Read a client's message; raises `MalformedError`."""
    if not isinstance(message, str):
        raise MalformedError("expected a text message, not a binary one")
    try:
        return _from_client.decode(message)
    except msgspec.MsgspecError as error:
        text = str(error)  # it may quote what the client sent, and goes into the log
        raise MalformedError(text if text.isprintable() else ascii(text)) from None
    except RecursionError:
        raise MalformedError("nested too deeply") from None


def decode_join(message: str | bytes) -> Join:
    """Read a client's first message; raises `MalformedError` for any other than a join."""
    join = decode(message)
    if not isinstance(join, Join):
        raise MalformedError("the first message must be a join")
    return join


def decode_from_server(message: str | bytes) -> FromServer:
    """Read a server's message; raises `MalformedError`."""
    try:
        return _from_server.decode(message)
    except msgspec.MsgspecError as error:
        raise MalformedError(str(error)) from None


def decode_changes(raw: Raw) -> Changes:
    """Read the changes in a `State`; raises `MalformedError`."""
    try:
        return _changes.decode(raw)
    except msgspec.MsgspecError as error:
        raise MalformedError(str(error)) from None
