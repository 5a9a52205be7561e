# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The payload of a message that comes in parts, natively: one buffer, checked as it grows."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ._bytes cimport (
    PyUnicode_DATA,
    PyUnicode_DecodeUTF8,
    PyUnicode_New,
    bytes_at,
    is_ascii,
    mask_into,
    new_bytes,
    resize_bytes,
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
        self._bytes = NULL
        self._is_ascii = True

    def __dealloc__(self):
        Py_XDECREF(self._bytes)

    cdef int reserve(self, Py_ssize_t more, Py_ssize_t still_to_come) except -1:
        """Make room for so many bytes; for all of a frame if much of the message has come."""
        cdef Py_ssize_t needed = self.size + more
        cdef Py_ssize_t room = needed
        if needed <= self._room:
            return 0
        if needed >= TRUST and still_to_come > more:
            room = min(self.size + still_to_come, ROOM * needed)
        elif self.size:
            room = needed + needed // 2
        if self._bytes == NULL:
            self._bytes = new_bytes(NULL, room)
        else:
            try:
                resize_bytes(&self._bytes, room)
            except MemoryError:
                self.forget()  # it is gone
                raise
        self._room = room
        return 0

    cdef int add_masked(self, const uint8_t* data, Py_ssize_t size, uint32_t key) except -1:
        """Unmask bytes into the room that is reserved for them."""
        if size > self._room - self.size:
            raise SystemError("more than there is room for")
        if not is_ascii(mask_into(<uint8_t*>bytes_at(self._bytes) + self.size, data, size, key)):
            self._is_ascii = False
        self.size += size
        return 0

    cdef int add(self, bytes data) except -1:
        """Add bytes as they are."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if size:
            self._is_ascii = False  # nobody has looked
            self.reserve(size, 0)
            memcpy(bytes_at(self._bytes) + self.size, PyBytes_AS_STRING(data), size)
            self.size += size
        return 0

    cdef bint check(self, bint last) except -1:
        """Look at what is new; tell whether it may be text, and with the ``last`` of it, is."""
        if not self.is_text or self._is_ascii or not self.size:
            self.valid = self.size
            return True
        self.valid = whole_characters(<uint8_t*>bytes_at(self._bytes), self.valid, self.size)
        return self.valid == self.size or (self.valid >= 0 and not last)

    cdef object take(self):
        """Return what is checked, whole characters of text, and forget it."""
        cdef Py_ssize_t rest = self.size - self.valid
        cdef uint8_t[4] tail
        cdef uint8_t* data
        if not self.valid:
            return "" if self.is_text else b""
        data = <uint8_t*>bytes_at(self._bytes)
        if self.is_text:
            if self._is_ascii:
                taken = PyUnicode_New(self.valid, 127)
                memcpy(PyUnicode_DATA(taken), data, self.valid)
            else:
                taken = PyUnicode_DecodeUTF8(<const char*>data, self.valid, NULL)
            memcpy(tail, data + self.valid, rest)  # at most three bytes of a character
            self.forget()
        else:
            try:
                resize_bytes(&self._bytes, self.valid)
                taken = <object>self._bytes
            finally:
                self.forget()
        if rest:
            self.reserve(rest, 0)
            memcpy(bytes_at(self._bytes), tail, rest)
            self.size = rest
            self._is_ascii = False
        return taken

    cdef void forget(self) noexcept:
        """Forget all of it."""
        cdef PyObject* payload = self._bytes
        self._bytes = NULL
        self._room = self.size = self.valid = 0
        self._is_ascii = True
        Py_XDECREF(payload)
