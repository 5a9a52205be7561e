# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True, auto_pickle=False
"""The lane of values, natively; `values` says what it is for, and has its twin."""

from ._lanes cimport InLane, OutLane

from .nothing import NOTHING

cdef object _NOTHING = NOTHING


cdef class ValueLane:
    """Takes values from the inbox of a connection, and offers them to its outbox."""

    cdef InLane _inlane
    cdef OutLane _outlane
    cdef object _makes
    cdef bint _is_text
    cdef object _decode
    cdef object _encode
    cdef object _express
    cdef public object found

    def __init__(
        self, InLane inlane not None, OutLane outlane not None, makes, decode, encode, express
    ):
        self._inlane, self._outlane = inlane, outlane
        self._makes, self._is_text = makes, makes is str
        self._decode, self._encode, self._express = decode, encode, express

    def take(self):
        """Return the next value if it is here, and no checkpoint is due; else `NOTHING`."""
        if self.found is not None:
            return _NOTHING
        message = self._inlane.first(False)
        if message is None:
            return _NOTHING
        if type(message) is self._makes:
            try:
                return self._decode(message)
            except (ValueError, RecursionError):
                pass
        self.found = message
        return _NOTHING

    def offer(self, value):
        """Send a value if that can be done at once; else return its message, to be sent."""
        cdef bytes data
        try:
            data = self._encode(value)
            if self._is_text and not data.isascii():
                data.decode()
        except (ValueError, OverflowError, RecursionError):
            return self._express(value)
        if self._outlane.pass_encoded(self._is_text, data, self._inlane.inbox):
            return None
        return data.decode() if self._is_text else data
