from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

cdef class Payload:
    cdef bint is_text
    #: Bytes in use; of them, those that are whole characters, or all of a binary message.
    cdef Py_ssize_t size
    cdef Py_ssize_t valid
    #: The message to be: bytes, or for text a str that is ASCII if all of it is.
    cdef PyObject* _memory
    cdef bint _is_str
    cdef Py_ssize_t _room
    cdef bint _is_ascii

    cdef uint8_t* _data(self) noexcept
    cdef int _resize(self, Py_ssize_t room) except -1
    cdef int reserve(self, Py_ssize_t more, Py_ssize_t still_to_come) except -1
    cdef int add_masked(self, const uint8_t* data, Py_ssize_t size, uint32_t key) except -1
    cdef int add(self, bytes data) except -1
    cdef bint check(self, bint last) except -1
    cdef object take(self)
    cdef void forget(self) noexcept
