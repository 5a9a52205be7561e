"""No value: one of its own, where None may be a value."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["NOTHING", "Nothing"]


class Nothing(enum.Enum):
    """The type of `NOTHING`."""

    NOTHING = enum.auto()


#: There is no value.
NOTHING: Final = Nothing.NOTHING
