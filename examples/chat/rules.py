"""What people may be called, and what they may say. Without clock, network or Trio."""

from __future__ import annotations

import unicodedata

import msgspec

__all__ = [
    "MAX_NAME",
    "MAX_TEXT",
    "BrokenRule",
    "Message",
    "clean_name",
    "clean_text",
    "fold",
]

#: Characters of a name, and of a message.
MAX_NAME = 20
MAX_TEXT = 2000

#: What a name may have between its letters and digits.
_JOINTS = " .-_'\N{RIGHT SINGLE QUOTATION MARK}"


class BrokenRule(ValueError):
    """A name or a text that cannot be; the error's text says why, to people."""


class Message(msgspec.Struct, frozen=True):
    """What somebody has said: as it is kept, and as pages get it."""

    #: Chosen at random by the page that sends it: with it a message that is sent again is known.
    key: str
    #: The author's name.
    by: str
    #: ``#room``, or ``@name`` for a private one.
    to: str
    text: str
    #: Seconds since 1970, by the server's clock.
    at: float


def clean_name(name: str) -> str:
    """Return a name in its one form; raises `BrokenRule` if nobody may be called so."""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    if not any(one.isalpha() for one in name):
        raise BrokenRule("a name needs at least one letter")
    if len(name) > MAX_NAME:
        raise BrokenRule(f"a name has at most {MAX_NAME} characters")
    for one in name:
        # Marks are what some scripts write vowels with.
        if not (one.isalnum() or one in _JOINTS or unicodedata.category(one)[0] == "M"):
            shown = one if one.isprintable() else ascii(one)
            raise BrokenRule(f"a name has letters and digits, not {shown}")
    return name


def fold(name: str) -> str:
    """Return what two names have in common that are too alike to be two people's."""
    return "".join(one for one in name.casefold() if one not in _JOINTS)


def clean_text(text: str) -> str:
    """Return a text without what cannot be seen; raises `BrokenRule` for none, or too much."""
    text = "".join(one for one in text.replace("\r\n", "\n") if _is_sayable(one)).strip()
    if not text:
        raise BrokenRule("say something")
    if len(text) > MAX_TEXT:
        raise BrokenRule(f"a message has at most {MAX_TEXT:,} characters")
    return text


def _is_sayable(character: str) -> bool:
    # Cc: controls. Cs: half a character. Format characters (Cf) join emoji, and turn text around
    # within its own element alone.
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
