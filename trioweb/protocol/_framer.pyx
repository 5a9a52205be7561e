# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""The native framer: data frames in bulk; control frames and all that is wrong by wsproto.

It gives what `pure` gives, byte for byte. The payload of a message goes from the read straight to
where it stays: unmasked a word at a time, and checked for UTF-8 on the way (RFC 6455, 5.3 and 8.1).
Every length is compared with what is there before memory is touched.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..errors import ProtocolError
from ..types import CloseCode, Side
from .assembler import Assembler
from .control import control_frame, refusal
from .frames import MOST_FRAMES, NOT_UTF8, PAUSE, SLICE, SLICE_COST

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
    object PyUnicode_New(Py_ssize_t, Py_UCS4)
    void* PyUnicode_DATA(object) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(object) noexcept
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)
    object PyUnicode_AsUTF8String(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    int PyUnicode_KIND(object) noexcept

cdef enum:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    FIRST_CONTROL = 8
    LAST_CONTROL = 10
    FIN = 0x80
    RSV1 = 0x40
    RSV = 0x70
    MASKED = 0x80
    #: An accumulating message gets room for all of a frame once so much of it has come: until then
    #: a header costs its sender as much as it costs us.
    TRUST = 65536

cdef int _MOST_FRAMES = MOST_FRAMES
cdef int _SLICE_COST = SLICE_COST
cdef Py_ssize_t _SLICE = SLICE
cdef Py_ssize_t _UNBOUNDED = 2**62
cdef object _ERROR = ProtocolError
cdef object _INVALID_DATA = CloseCode.INVALID_DATA
cdef object _PAUSE = PAUSE


cdef uint64_t _xor(uint8_t* to, const uint8_t* source, Py_ssize_t size, uint32_t key) noexcept nogil:
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


cdef inline bint _is_ascii(uint64_t seen) noexcept nogil:
    return seen & <uint64_t>0x8080808080808080 == 0


cdef Py_ssize_t _whole_characters(const uint8_t* text, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    """Return where the whole characters from ``at`` on end; -1 if one can be none (RFC 3629, 4)."""
    cdef uint64_t word
    cdef uint8_t first, least, most
    cdef Py_ssize_t more, i
    while at < size:
        if at + 8 <= size:
            memcpy(&word, text + at, 8)
            if _is_ascii(word):
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


cdef object _text(const uint8_t* data, Py_ssize_t size, bint is_ascii):
    """Return the str of UTF-8, which raises for what is none."""
    if not is_ascii:
        try:
            return PyUnicode_DecodeUTF8(<const char*>data, size, NULL)
        except UnicodeDecodeError as error:
            raise _not_utf8() from error
    text = PyUnicode_New(size, 127)
    memcpy(PyUnicode_DATA(text), data, size)
    return text


cdef object _not_utf8():
    return _ERROR(_INVALID_DATA, NOT_UTF8)


cdef inline Py_ssize_t _memory(object message) noexcept:
    """Return what ``sys.getsizeof`` gives for a message."""
    cdef Py_ssize_t size
    if PyBytes_CheckExact(message):
        return BYTES_SIZE + PyBytes_GET_SIZE(message)
    size = PyUnicode_GET_LENGTH(message) + 1
    if PyUnicode_IS_COMPACT_ASCII(message):
        return ASCII_SIZE + size
    return COMPACT_SIZE + size * PyUnicode_KIND(message)


cdef class Framer:
    """The frames that come on one connection; see `pure.Framer`."""

    cdef object _assembler
    cdef object _inflater
    cdef bint _masked
    cdef bint _over
    cdef bint _streams
    #: The largest message that is decoded where it is, without the assembler.
    cdef Py_ssize_t _max_size
    #: What has come; it is decoded up to ``_at``.
    cdef bytes _data
    cdef Py_ssize_t _at
    cdef int _budget
    # The frame under way.
    cdef bint _in_frame
    cdef bint _fin
    #: Its header was checked, and its mask has not come yet: it is begun, for the assembler.
    cdef bint _checked
    cdef Py_ssize_t _left
    cdef uint8_t[4] _key
    cdef int _phase
    # The message under way.
    cdef bint _in_message
    cdef bint _is_text
    cdef bint _compressed
    cdef bint _is_ascii
    #: Its payload, as far as it is not passed on: room, bytes in use, bytes of whole characters.
    cdef PyObject* _payload
    cdef Py_ssize_t _room
    cdef Py_ssize_t _size
    cdef Py_ssize_t _valid

    def __cinit__(self):
        self._payload = NULL

    def __init__(self, side, limits, inflater=None):
        self._assembler = Assembler(limits)
        self._inflater = inflater
        self._masked = side is Side.SERVER
        self._max_size = min(limits.max_message, _UNBOUNDED)
        self._data = b""
        self._is_ascii = True

    def __dealloc__(self):
        Py_XDECREF(self._payload)

    def feed(self, bytes data not None):
        """Take bytes from the peer."""
        if self._over:
            return
        if self._at < PyBytes_GET_SIZE(self._data):
            data = self._data[self._at :] + data
        self._data = data
        self._at = 0

    def stream(self, limit):
        """From now on return messages in pieces, and take them up to ``limit`` bytes."""
        self._assembler.stream(limit)
        self._streams = True
        self._max_size = min(self._assembler.whole, limit, _UNBOUNDED)

    def drop(self):
        """Forget what has come and take no more: the connection's remains may stay for a while."""
        self._over = True
        self._data = b""
        self._at = 0
        self._in_frame = self._in_message = False
        self._forget_payload()
        self._assembler.drop()
        if self._inflater is not None:
            self._inflater.drop()

    def next(self):
        """Decode up to the next whole message or control frame; None when more is needed.

        Raises `ProtocolError` at the first byte that is wrong.
        """
        if self._over:
            return None
        try:
            return self._next()
        except _ERROR:
            self.drop()
            raise

    def pull(self, inbox, Py_ssize_t most_bytes, Py_ssize_t most_messages):
        """Decode messages that are here whole, and put them into a deque; return their memory.

        Stops at the first thing that is not such a message, and once their memory or their number
        is at its mark. What is wrong is left for `next` to find.
        """
        cdef Py_ssize_t taken = 0
        append = inbox.append
        while most_messages > 0 and taken < most_bytes:
            message = self._plain(False)
            if message is None:
                break
            append(message)
            taken += _memory(message)
            most_messages -= 1
        if self._at == PyBytes_GET_SIZE(self._data):
            self._data = b""
            self._at = 0
        return taken

    @property
    def empty(self):
        """Whether all that came is decoded."""
        return self._at == PyBytes_GET_SIZE(self._data)

    cdef object _next(self):
        self._budget = _MOST_FRAMES
        while True:
            if not self._in_frame:
                found = self._plain(True)
                if found is None:
                    found = self._header()
                if found is not None or not self._in_frame:
                    return found
            found = self._consume()
            if found is not None:
                return found
            if self._in_frame and self._at == PyBytes_GET_SIZE(self._data):
                return None
            if self._budget <= 0:
                return _PAUSE

    cdef object _plain(self, bint all_kinds):
        """Decode a frame that is a whole message, all of it here; None if what is here is none."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self._data)
        cdef Py_ssize_t here = PyBytes_GET_SIZE(self._data) - self._at
        cdef Py_ssize_t start = 2, length
        cdef uint8_t first
        cdef uint32_t key = 0
        cdef uint64_t seen
        if here < 2 or self._in_message or self._in_frame or self._checked:
            return None
        data += self._at
        first = data[0]
        if first & ~(TEXT | BINARY | RSV1) != FIN or (data[1] > 127) != self._masked:
            return None
        if first & 3 == 0 or first & 3 == 3:
            return None
        if first & RSV1 and (self._inflater is None or self._streams or not all_kinds):
            return None
        length = data[1] & 127
        if length > 125:
            if length == 127 or here < 4:
                return None
            length = (<Py_ssize_t>data[2] << 8) | data[3]
            start = 4
            if length < 126:
                return None  # not the shortest encoding
        if self._masked:
            start += 4
        if start + length > here or length > self._max_size:
            return None
        if self._masked:
            memcpy(&key, data + start - 4, 4)
        if first & RSV1:
            message = PyBytes_FromStringAndSize(NULL, length)
            _xor(<uint8_t*>PyBytes_AS_STRING(message), data + start, length, key)
            message = self._inflater.feed(message) + self._inflater.finish()
            if first & TEXT:
                message = _text(
                    <const uint8_t*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), False
                )
        elif first & TEXT:
            message = PyUnicode_New(length, 127)
            seen = _xor(<uint8_t*>PyUnicode_DATA(message), data + start, length, key)
            if not _is_ascii(seen):
                message = self._wide(data + start, length, key, all_kinds)
                if message is None:
                    return None
        else:
            message = PyBytes_FromStringAndSize(NULL, length)
            _xor(<uint8_t*>PyBytes_AS_STRING(message), data + start, length, key)
        self._at += start + length
        return message

    cdef object _wide(self, const uint8_t* data, Py_ssize_t length, uint32_t key, bint must):
        """Return the text of a payload that is not ASCII; None if it is none, unless it ``must``."""
        raw = PyBytes_FromStringAndSize(NULL, length)
        _xor(<uint8_t*>PyBytes_AS_STRING(raw), data, length, key)
        try:
            return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(raw), length, NULL)
        except UnicodeDecodeError as error:
            if not must:
                return None
            raise _not_utf8() from error

    cdef object _header(self):
        """Begin a data frame, or decode a whole control frame; None if more is needed, or begun."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self._data) + self._at
        cdef Py_ssize_t here = PyBytes_GET_SIZE(self._data) - self._at
        cdef Py_ssize_t start = 2
        cdef uint64_t length
        cdef int opcode, i
        cdef uint8_t first
        cdef bint begins
        if here < 2:
            return None
        first = data[0]
        opcode = first & 0x0F
        length = data[1] & 127
        if BINARY < opcode < FIRST_CONTROL or opcode > LAST_CONTROL:
            raise refusal(self._data[self._at : self._at + 2], client=not self._masked)
        if opcode >= FIRST_CONTROL:
            if first & (FIN | RSV) != FIN or (data[1] > 127) != self._masked or length > 125:
                raise refusal(self._data[self._at : self._at + 2], client=not self._masked)
            start += <Py_ssize_t>length + 4 * self._masked
            if here < start:
                return None
            frame = self._data[self._at : self._at + start]
            self._at += start
            found = control_frame(frame, client=not self._masked)
            if opcode == FIRST_CONTROL:
                self.drop()
            return found
        if length == 126:
            start = 4
        elif length == 127:
            start = 10
        if here < start:
            return None
        if start > 2:
            length = 0
            for i in range(2, start):
                length = (length << 8) | data[i]
            if length < <uint64_t>(126 if start == 4 else 65536) or length >> 63:
                raise refusal(self._data[self._at : self._at + start], client=not self._masked)
        begins = opcode != CONTINUATION
        if begins:
            self._compressed = first & RSV1 and self._inflater is not None
        self._assembler.check(length, continues=not begins, compressed=self._compressed)
        if first & RSV and not (first & RSV == RSV1 and begins and self._compressed):
            raise refusal(self._data[self._at : self._at + start], client=not self._masked)
        if (data[1] > 127) != self._masked:
            header = bytes([first & ~RSV]) + self._data[self._at + 1 : self._at + start]
            raise refusal(header, client=not self._masked)
        if self._inflater is not None:
            self._inflater.limit = int(min(self._assembler.max_size, _UNBOUNDED))
        if self._masked:
            self._checked = here < start + 4
            if self._checked:
                return None
            memcpy(self._key, data + start, 4)
            start += 4
        else:
            self._key[0] = self._key[1] = self._key[2] = self._key[3] = 0
        self._phase = 0
        self._at += start
        self._left = length
        self._fin = first & FIN != 0
        self._in_frame = True
        if begins:
            self._in_message = True
            self._is_text = opcode == TEXT
        return None

    cdef object _consume(self):
        """Take what is here of the frame under way; return what that completes."""
        cdef Py_ssize_t size = min(PyBytes_GET_SIZE(self._data) - self._at, self._left)
        cdef Py_ssize_t begin
        cdef bint ends
        if self._compressed and size > _SLICE:
            size = _SLICE
        ends = size == self._left
        begin = self._size
        if self._compressed:
            if size:
                self._inflate(size)
                self._budget -= _SLICE_COST
        elif size:
            self._grow(size)
            self._unmask(<uint8_t*>bytes_at(self._payload) + self._size, size)
            self._size += size
        self._left -= size
        if ends:
            self._in_frame = False
            self._budget -= 1
            self._assembler.finished_frame(fin=self._fin)
            if self._fin and self._compressed:
                self._add(self._inflater.finish())
        if self._is_text:
            self._check_text(ends and self._fin)
        else:
            self._valid = self._size
        if ends and self._fin:
            self._in_message = False
            message = self._take()
            return self._assembler.add(message, last=True) if self._streams else message
        if self._streams and self._size > begin:
            return self._assembler.add(self._take(), last=False)
        return None

    cdef int _inflate(self, Py_ssize_t size) except -1:
        packed = PyBytes_FromStringAndSize(NULL, size)
        self._unmask(<uint8_t*>PyBytes_AS_STRING(packed), size)
        self._add(self._inflater.feed(packed))
        return 0

    cdef int _unmask(self, uint8_t* to, Py_ssize_t size) except -1:
        """Unmask so many bytes of what is here: the caller has seen that they are."""
        cdef const uint8_t* source = <const uint8_t*>PyBytes_AS_STRING(self._data) + self._at
        cdef uint8_t[4] turned
        cdef uint32_t key
        cdef int i
        for i in range(4):
            turned[i] = self._key[(self._phase + i) & 3]
        memcpy(&key, turned, 4)
        if not _is_ascii(_xor(to, source, size, key)):
            self._is_ascii = False
        self._phase = (self._phase + size) & 3
        self._at += size
        return 0

    cdef int _add(self, bytes more) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(more)
        if size:
            self._is_ascii = False  # nobody has looked
            self._grow(size)
            memcpy(bytes_at(self._payload) + self._size, PyBytes_AS_STRING(more), size)
            self._size += size
        return 0

    cdef int _grow(self, Py_ssize_t more) except -1:
        """Make room for so many bytes; for all of the frame if much of the message has come."""
        cdef Py_ssize_t needed = self._size + more
        cdef Py_ssize_t room = needed
        if needed <= self._room:
            return 0
        if not self._compressed and needed >= TRUST and not self._streams:
            room = self._size + self._left
        elif self._size:
            room = needed + needed // 2
        if self._payload == NULL:
            self._payload = new_bytes(NULL, room)
        else:
            try:
                resize_bytes(&self._payload, room)
            except MemoryError:
                self._forget_payload()  # it is gone
                raise
        self._room = room
        return 0

    cdef int _check_text(self, bint last) except -1:
        cdef const uint8_t* data
        if self._is_ascii or not self._size:
            self._valid = self._size
            return 0
        data = <const uint8_t*>bytes_at(self._payload)
        self._valid = _whole_characters(data, self._valid, self._size)
        if self._valid < 0 or (last and self._valid < self._size):
            raise _not_utf8()
        return 0

    cdef object _take(self):
        """Return what has come of the message, whole characters of text, and forget it."""
        cdef Py_ssize_t rest = self._size - self._valid
        cdef uint8_t[4] tail
        if not self._valid:
            return "" if self._is_text else b""
        data = <uint8_t*>bytes_at(self._payload)
        if self._is_text:
            taken = _text(data, self._valid, self._is_ascii)
            memcpy(tail, data + self._valid, rest)
            self._forget_payload()
        else:
            resize_bytes(&self._payload, self._valid)
            taken = <object>self._payload
            self._forget_payload()
        if rest:
            self._grow(rest)
            memcpy(bytes_at(self._payload), tail, rest)
            self._size = rest
            self._is_ascii = False
        return taken

    cdef void _forget_payload(self) noexcept:
        cdef PyObject* payload = self._payload
        self._payload = NULL
        self._room = self._size = self._valid = 0
        self._is_ascii = True
        Py_XDECREF(payload)


cpdef bytes frame(int first, object payload, bytes key):
    """Encode a frame that begins with the byte ``first``, masked if there is a key."""
    cdef const uint8_t* data
    cdef Py_ssize_t size, start
    cdef uint8_t* to
    cdef uint32_t word = 0
    cdef int masked = 0
    if PyUnicode_Check(payload):
        if PyUnicode_IS_COMPACT_ASCII(payload):
            data = <const uint8_t*>PyUnicode_DATA(payload)
            size = PyUnicode_GET_LENGTH(payload)
        else:
            payload = PyUnicode_AsUTF8String(payload)
            data = <const uint8_t*>PyBytes_AS_STRING(payload)
            size = PyBytes_GET_SIZE(payload)
    else:
        if not isinstance(payload, bytes):
            raise TypeError("the payload of a frame is str or bytes")
        data = <const uint8_t*>PyBytes_AS_STRING(payload)
        size = PyBytes_GET_SIZE(payload)
    start = 2 if size < 126 else 4 if size < 65536 else 10
    if key is not None:
        if PyBytes_GET_SIZE(key) != 4:
            raise ValueError("a masking key has 4 bytes")
        memcpy(&word, PyBytes_AS_STRING(key), 4)
        masked = MASKED
        start += 4
    out = PyBytes_FromStringAndSize(NULL, start + size)
    to = <uint8_t*>PyBytes_AS_STRING(out)
    to[0] = first
    if size < 126:
        to[1] = masked | size
    elif size < 65536:
        to[1] = masked | 126
        to[2] = size >> 8
        to[3] = size & 255
    else:
        to[1] = masked | 127
        _put_length(to + 2, size)
    if masked:
        memcpy(to + start - 4, &word, 4)
        _xor(to + start, data, size, word)
    else:
        memcpy(to + start, data, size)
    return out


cdef void _put_length(uint8_t* to, uint64_t size) noexcept:
    cdef int i
    for i in range(8):
        to[i] = (size >> (56 - 8 * i)) & 255


def mask(bytes data not None, bytes key not None):
    """Mask or unmask."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef uint32_t word
    if PyBytes_GET_SIZE(key) != 4:
        raise ValueError("a masking key has 4 bytes")
    memcpy(&word, PyBytes_AS_STRING(key), 4)
    out = PyBytes_FromStringAndSize(NULL, size)
    _xor(<uint8_t*>PyBytes_AS_STRING(out), <const uint8_t*>PyBytes_AS_STRING(data), size, word)
    return out
