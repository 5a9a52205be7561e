# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames to bytes, natively: head, mask and payload in one allocation. `frames` has the twins."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._bytes cimport (
    PyBytes_FromStringAndSize,
    PyUnicode_AsUTF8String,
    PyUnicode_DATA,
    PyUnicode_GET_LENGTH,
    PyUnicode_IS_COMPACT_ASCII,
    mask_into,
)

cdef enum:
    CONTINUATION = 0
    FIN = 0x80
    MASKED = 0x80


cdef int _put_head(uint8_t* to, int first, Py_ssize_t size, bint masked) noexcept:
    """Write the first 2, 4 or 10 bytes of a frame; return their number."""
    cdef int i
    to[0] = first
    if size < 126:
        to[1] = size
    elif size < 65536:
        to[1] = 126
        to[2] = size >> 8
        to[3] = size & 255
    else:
        to[1] = 127
        for i in range(8):
            to[2 + i] = (<uint64_t>size >> (56 - 8 * i)) & 255
    if masked:
        to[1] |= MASKED
    return 2 if size < 126 else 4 if size < 65536 else 10


cpdef bytes head(int first, Py_ssize_t size):
    """Encode the head of a frame that is not masked, with a payload of so many bytes."""
    cdef uint8_t[10] out
    cdef int length = _put_head(out, first, size, False)
    return PyBytes_FromStringAndSize(<const char*>out, length)


cpdef bytes frame(int first, object payload, bytes key):
    """Encode a frame that begins with the byte ``first``, masked if there is a key."""
    cdef const uint8_t* data
    cdef Py_ssize_t size
    if PyUnicode_Check(payload):
        if PyUnicode_IS_COMPACT_ASCII(payload):
            data = <const uint8_t*>PyUnicode_DATA(payload)
            size = PyUnicode_GET_LENGTH(payload)
        else:
            payload = PyUnicode_AsUTF8String(payload)
            data = <const uint8_t*>PyBytes_AS_STRING(payload)
            size = PyBytes_GET_SIZE(payload)
    elif isinstance(payload, bytes):
        data = <const uint8_t*>PyBytes_AS_STRING(payload)
        size = PyBytes_GET_SIZE(payload)
    else:
        raise TypeError("the payload of a frame is str or bytes")
    return _frame(first, data, size, key)


cdef bytes _frame(int first, const uint8_t* data, Py_ssize_t size, bytes key):
    cdef uint8_t[10] start
    cdef int length
    cdef uint8_t* to
    cdef uint32_t word = 0
    length = _put_head(start, first, size, key is not None)
    if key is None:
        out = PyBytes_FromStringAndSize(NULL, length + size)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        memcpy(to + length, data, size)
    else:
        if PyBytes_GET_SIZE(key) != 4:
            raise ValueError("a masking key has 4 bytes")
        memcpy(&word, PyBytes_AS_STRING(key), 4)
        out = PyBytes_FromStringAndSize(NULL, length + 4 + size)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        memcpy(to + length, &word, 4)
        mask_into(to + length + 4, data, size, word)
    memcpy(to, start, length)
    return out


def cut(int first, object payload, Py_ssize_t most, object token_bytes, bint last):
    """Encode a payload as frames of at most so many bytes of it, each from where it lies."""
    cdef const uint8_t* data
    cdef Py_ssize_t size, here, at = 0
    cdef int fin
    cdef list frames = []
    if most < 1:
        raise ValueError("a frame holds a byte at least")
    if PyUnicode_Check(payload) and not PyUnicode_IS_COMPACT_ASCII(payload):
        payload = PyUnicode_AsUTF8String(payload)
    if PyUnicode_Check(payload):
        data = <const uint8_t*>PyUnicode_DATA(payload)
        size = PyUnicode_GET_LENGTH(payload)
    elif isinstance(payload, bytes):
        data = <const uint8_t*>PyBytes_AS_STRING(payload)
        size = PyBytes_GET_SIZE(payload)
    else:
        raise TypeError("the payload of a frame is str or bytes")
    while True:
        here = min(most, size - at)
        fin = FIN if last and at + here == size else 0
        key = None if token_bytes is None else token_bytes(4)
        frames.append(_frame(first | fin, data + at, here, key))
        at += here
        if at == size:
            return frames
        first = CONTINUATION


def mask(bytes data not None, bytes key not None):
    """Mask or unmask."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef uint32_t word
    if PyBytes_GET_SIZE(key) != 4:
        raise ValueError("a masking key has 4 bytes")
    memcpy(&word, PyBytes_AS_STRING(key), 4)
    out = PyBytes_FromStringAndSize(NULL, size)
    mask_into(<uint8_t*>PyBytes_AS_STRING(out), <const uint8_t*>PyBytes_AS_STRING(data), size, word)
    return out
