from collections.abc import Callable

from ..types import Message

def frame(first: int, payload: Message, key: bytes | None) -> bytes: ...
def cut(
    first: int,
    payload: Message,
    most: int,
    token_bytes: Callable[[int], bytes] | None,
    last: bool,
) -> list[bytes]: ...
def mask(data: bytes, key: bytes) -> bytes: ...
