# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the native modules do with bytes, a word at a time, and what they use of Python's C API."""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define TRIOWEB_BYTES_SIZE (PyBytes_Type.tp_basicsize)
    #define TRIOWEB_ASCII_SIZE ((Py_ssize_t)sizeof(PyASCIIObject))
    #define TRIOWEB_COMPACT_SIZE ((Py_ssize_t)sizeof(PyCompactUnicodeObject))
    """
    Py_ssize_t BYTES_SIZE "TRIOWEB_BYTES_SIZE"
    Py_ssize_t ASCII_SIZE "TRIOWEB_ASCII_SIZE"
    Py_ssize_t COMPACT_SIZE "TRIOWEB_COMPACT_SIZE"

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    int resize_bytes "_PyBytes_Resize"(PyObject**, Py_ssize_t) except -1
    char* bytes_at "PyBytes_AS_STRING"(PyObject*) noexcept
    object PyBytes_FromStringAndSize(const char*, Py_ssize_t)
    object PyMemoryView_FromObject(object)
    Py_buffer* PyMemoryView_GET_BUFFER(object) noexcept
    int PyBuffer_IsContiguous(Py_buffer*, char)
    object PyUnicode_New(Py_ssize_t, Py_UCS4)
    PyObject* new_text "PyUnicode_New"(Py_ssize_t, Py_UCS4) except NULL
    int resize_text "PyUnicode_Resize"(PyObject**, Py_ssize_t) except -1
    char* text_at "PyUnicode_DATA"(PyObject*) noexcept
    void* PyUnicode_DATA(object) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(object) noexcept
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)
    object PyUnicode_AsUTF8String(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    int PyUnicode_KIND(object) noexcept


cdef inline uint64_t mask_into(uint8_t* to, const uint8_t* source, Py_ssize_t size, uint32_t key) noexcept nogil:
    """Copy and mask; return all bytes of the result or-ed together."""
    cdef uint64_t wide = (<uint64_t>key << 32) | key
    cdef uint64_t word, seen = 0
    cdef uint8_t* tail = <uint8_t*>&wide
    cdef Py_ssize_t words = size // 8
    cdef Py_ssize_t i
    for i in range(words):
        memcpy(&word, source + 8 * i, 8)
        word ^= wide
        memcpy(to + 8 * i, &word, 8)
        seen |= word
    for i in range(8 * words, size):
        to[i] = source[i] ^ tail[i & 7]
        seen |= to[i]
    return seen


cdef inline bint is_ascii(uint64_t seen) noexcept nogil:
    return seen & <uint64_t>0x8080808080808080 == 0


cdef inline Py_ssize_t whole_characters(const uint8_t* text, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    """Return where the whole characters from ``at`` on end; -1 if one can be none (RFC 3629, 4)."""
    cdef uint64_t word
    cdef uint8_t first, least, most
    cdef Py_ssize_t more, i
    while at < size:
        if at + 8 <= size:
            memcpy(&word, text + at, 8)
            if is_ascii(word):
                at += 8
                continue
        first = text[at]
        if first < 0x80:
            at += 1
            continue
        least, most = 0x80, 0xBF
        if first < 0xC2 or first > 0xF4:
            return -1
        if first < 0xE0:
            more = 1
        elif first < 0xF0:
            more = 2
            if first == 0xE0:
                least = 0xA0
            elif first == 0xED:
                most = 0x9F
        else:
            more = 3
            if first == 0xF0:
                least = 0x90
            elif first == 0xF4:
                most = 0x8F
        for i in range(1, more + 1):
            if at + i == size:
                return at
            if text[at + i] < least or text[at + i] > most:
                return -1
            least, most = 0x80, 0xBF
        at += more + 1
    return at


cdef inline Py_ssize_t memory_of(object message) noexcept:
    """Return what ``sys.getsizeof`` gives for a message."""
    cdef Py_ssize_t size
    if PyBytes_CheckExact(message):
        return BYTES_SIZE + PyBytes_GET_SIZE(message)
    size = PyUnicode_GET_LENGTH(message) + 1
    if PyUnicode_IS_COMPACT_ASCII(message):
        return ASCII_SIZE + size
    return COMPACT_SIZE + size * PyUnicode_KIND(message)


cdef enum:
    NOT_HERE = -1
    WRONG = -2


cdef inline Py_ssize_t payload_length(
    const uint8_t* frame, Py_ssize_t here, Py_ssize_t* start
) noexcept nogil:
    """Read the length of a frame's payload, and where the mask or the payload starts.

    NOT_HERE if there are too few bytes, WRONG for one that is not allowed (RFC 6455, 5.2).
    """
    cdef uint64_t length = frame[1] & 127
    cdef int i
    start[0] = 2
    if length < 126:
        return length
    start[0] = 4 if length == 126 else 10
    if here < start[0]:
        return NOT_HERE
    length = 0
    for i in range(2, start[0]):
        length = (length << 8) | frame[i]
    if length < <uint64_t>(126 if start[0] == 4 else 65536) or length >> 63:
        return WRONG
    return length
