"""Checks that whoever writes a plug-in runs in a test of theirs: one for each interface.

Each raises `AssertionError` that says which promise was broken, and with what input. They need
neither pytest nor sockets, wait on Trio's clock alone, real or virtual, and give up what hangs.
"""

from .broker import check_broker
from .codec import check_codec
from .observer import check_observer
from .store import check_store
from .transport import check_transport

__all__ = ["check_broker", "check_codec", "check_observer", "check_store", "check_transport"]
