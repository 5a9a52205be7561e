# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The payload of a message that comes in parts, natively: one buffer, checked as it grows."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ._bytes cimport (
    PyUnicode_DecodeUTF8,
    bytes_at,
    is_ascii,
    mask_into,
    new_bytes,
    new_text,
    resize_bytes,
    resize_text,
    text_at,
    whole_characters,
)

cdef enum:
    #: A message gets room for all of its frame once so much of it has come: until then a header
    #: costs its sender as much as it costs us.
    TRUST = 65536
    #: But never more than so many times what has come.
    ROOM = 16


cdef class Payload:
    """What has come of a message, and is not passed on."""

    def __cinit__(self):
        self._memory = NULL
        self._is_ascii = True

    def __dealloc__(self):
        Py_XDECREF(self._memory)

    cdef uint8_t* _data(self) noexcept:
        return <uint8_t*>(text_at(self._memory) if self._is_str else bytes_at(self._memory))

    cdef int reserve(self, Py_ssize_t more, Py_ssize_t still_to_come) except -1:
        """Make room for so many bytes; for all of a frame if much of the message has come."""
        cdef Py_ssize_t needed = self.size + more
        cdef Py_ssize_t room = needed
        if needed <= self._room:
            return 0
        if needed >= TRUST and still_to_come > more:
            room = self.size + min(still_to_come, ROOM * needed - self.size)
        elif self.size:
            room = needed + needed // 2
        if self._memory == NULL:
            self._memory = new_text(room, 127) if self.is_text else new_bytes(NULL, room)
            self._is_str = self.is_text
        else:
            try:
                self._resize(room)
            except BaseException:
                self.forget()  # bytes are gone
                raise
        self._room = room
        return 0

    cdef int _resize(self, Py_ssize_t room) except -1:
        if self._is_str:
            return resize_text(&self._memory, room)
        return resize_bytes(&self._memory, room)

    cdef int add_masked(self, const uint8_t* data, Py_ssize_t size, uint32_t key) except -1:
        """Unmask bytes into the room that is reserved for them."""
        if size > self._room - self.size:
            raise SystemError("more than there is room for")
        if not is_ascii(mask_into(self._data() + self.size, data, size, key)):
            self._is_ascii = False
        self.size += size
        return 0

    cdef int add(self, bytes data) except -1:
        """Add bytes as they are."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if size:
            self.reserve(size, 0)
            self.add_masked(<const uint8_t*>PyBytes_AS_STRING(data), size, 0)
        return 0

    cdef bint check(self, bint last) except -1:
        """Look at what is new; tell whether it may be text, and with the ``last`` of it, is."""
        if not self.is_text or self._is_ascii or not self.size:
            self.valid = self.size
            return True
        self.valid = whole_characters(self._data(), self.valid, self.size)
        return self.valid == self.size or (self.valid >= 0 and not last)

    cdef object take(self):
        """Return what is checked, whole characters of text, and forget it."""
        cdef Py_ssize_t rest = self.size - self.valid
        cdef uint8_t[4] tail
        cdef uint8_t* data
        if not self.valid:
            return "" if self.is_text else b""
        data = self._data()
        memcpy(tail, data + self.valid, rest)  # at most three bytes of a character
        try:
            if self.is_text and not self._is_ascii:
                taken = PyUnicode_DecodeUTF8(<const char*>data, self.valid, NULL)
            else:
                self._resize(self.valid)
                taken = <object>self._memory
        finally:
            self.forget()
        if rest:
            self.reserve(rest, 0)
            self.add_masked(tail, rest, 0)
        return taken

    cdef void forget(self) noexcept:
        """Forget all of it."""
        cdef PyObject* payload = self._memory
        self._memory = NULL
        self._room = self.size = self.valid = 0
        self._is_ascii = True
        Py_XDECREF(payload)
