# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, nonecheck=True
"""The native framer: data frames in bulk; control frames and all that is wrong by wsproto.

It gives what `pure` gives, byte for byte. The payload of a message goes from the read straight to
where it stays: unmasked a word at a time, and checked for UTF-8 on the way (RFC 6455, 5.3 and 8.1).
Every length is compared with what is there before memory is touched.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._bytes cimport (
    NOT_HERE,
    WRONG,
    PyBuffer_IsContiguous,
    PyBytes_FromStringAndSize,
    PyMemoryView_FromObject,
    PyMemoryView_GET_BUFFER,
    PyUnicode_DATA,
    PyUnicode_DecodeUTF8,
    PyUnicode_New,
    is_ascii,
    mask_into,
    memory_of,
    payload_length,
)
from ._payload cimport Payload

from ..errors import ProtocolError
from ..types import CloseCode, Side
from .assembler import Assembler
from .control import control_frame, refusal
from .frames import MOST_FRAMES, NOT_UTF8, PAUSE, SLICE, SLICE_COST

cdef enum:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    FIRST_CONTROL = 8
    LAST_CONTROL = 10
    LONGEST_CONTROL = 125
    FIN = 0x80
    RSV1 = 0x40
    RSV = 0x70

cdef int _MOST_FRAMES = MOST_FRAMES
cdef int _SLICE_COST = SLICE_COST
cdef Py_ssize_t _SLICE = SLICE
cdef Py_ssize_t _UNBOUNDED = 2**62
cdef object _ERROR = ProtocolError
cdef object _INVALID_DATA = CloseCode.INVALID_DATA
cdef object _PAUSE = PAUSE



cdef object _not_utf8():
    return _ERROR(_INVALID_DATA, NOT_UTF8)


cdef object _decode(bytes data, bint must):
    """Return the str of UTF-8; None if it is none, or `ProtocolError` if it ``must`` be."""
    try:
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), NULL)
    except UnicodeDecodeError as error:
        if not must:
            return None
        raise _not_utf8() from error


cdef class Framer:
    """The frames that come on one connection; see `pure.Framer`."""

    cdef object _assembler
    cdef object _inflater
    cdef bint _masked
    cdef bint _over
    cdef bint _streams
    #: The largest message that is decoded where it is, without the assembler.
    cdef Py_ssize_t _max_size
    #: What has come, and who owns it; it is decoded up to ``_at``.
    cdef object _owner
    cdef const uint8_t* _data
    cdef Py_ssize_t _here
    cdef Py_ssize_t _at
    #: Whether it is borrowed, which `pull` ends.
    cdef bint _borrowed
    #: Payload of the frame under way was taken by `feed`, and nobody has looked at it.
    cdef bint _fresh
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
    cdef bint _compressed
    cdef Payload _payload

    def __cinit__(self, side, limits, inflater=None):
        self._assembler = Assembler(limits)
        self._inflater = inflater
        self._masked = side is Side.SERVER
        self._max_size = int(min(limits.max_message, _UNBOUNDED))
        self._own(b"")
        self._payload = Payload()
        self._budget = _MOST_FRAMES

    def feed(self, data not None):
        """Take bytes from the peer; what was borrowed is copied, here or by the next `pull`."""
        if self._over:
            return
        try:
            if self._at < self._here:
                self._own(self._head(self._here - self._at) + data)
            elif PyBytes_CheckExact(data):
                self._own(data)
            else:
                self._borrow(data)
            if self._in_frame and not self._compressed and self._left and self._here:
                self._add(min(self._here, self._left))
                self._fresh = True
        except MemoryError:
            self.drop()
            raise

    cdef int _own(self, bytes data) except -1:
        return self._hold(data, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int _hold(self, object owner, const uint8_t* data, Py_ssize_t size) except -1:
        self._owner, self._data, self._here, self._at = owner, data, size, 0
        self._borrowed = not PyBytes_CheckExact(owner)
        return 0

    cdef int _borrow(self, data) except -1:
        # A view of our own: while it lives, the memory stays where it is.
        own = PyMemoryView_FromObject(data)
        cdef Py_buffer* view = PyMemoryView_GET_BUFFER(own)
        if not PyBuffer_IsContiguous(view, c'C'):
            raise ValueError("the bytes are not contiguous")
        return self._hold(own, <const uint8_t*>view.buf, view.len)

    cdef bytes _head(self, Py_ssize_t size):
        return PyBytes_FromStringAndSize(<const char*>self._data + self._at, size)

    cdef int _add(self, Py_ssize_t size) except -1:
        """Add so many bytes of what is here, and of the frame, to the payload."""
        self._payload.reserve(size, 0 if self._streams else self._left)
        self._payload.add_masked(self._data + self._at, size, self._turned_key(size))
        self._at += size
        self._left -= size
        return 0

    cdef uint32_t _turned_key(self, Py_ssize_t size) noexcept:
        """Return the key for the next bytes of the frame, and turn it by their number."""
        cdef uint8_t[4] turned
        cdef uint32_t key
        cdef int i
        for i in range(4):
            turned[i] = self._key[(self._phase + i) & 3]
        memcpy(&key, turned, 4)
        self._phase = (self._phase + size) & 3
        return key

    def stream(self, limit):
        """From now on return messages in pieces, and take them up to ``limit`` bytes."""
        self._assembler.stream(limit)
        self._streams = True
        self._max_size = int(min(self._assembler.whole, limit, _UNBOUNDED))

    def drop(self):
        """Forget what has come and take no more: the connection's remains may stay for a while."""
        self._over = True
        self._own(b"")
        self._in_frame = self._in_message = self._fresh = False
        self._payload.forget()
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
        except BaseException:  # no memory, say: half a message must not go on
            self.drop()
            raise

    def pull(self, list inbox not None, Py_ssize_t most_bytes, Py_ssize_t most_messages):
        """Decode messages that are here whole, and put them into a list; return their memory.

        Stops at the first thing that is not such a message, and once their memory or their number
        is at its mark. What is wrong is left for `next` to find.
        """
        cdef Py_ssize_t taken = 0
        try:
            while most_messages > 0 and taken < most_bytes:
                message = self._plain(False)
                if message is None:
                    break
                inbox.append(message)
                taken += memory_of(message)
                most_messages -= 1
            if self._borrowed or self._at == self._here:
                self._own(self._head(self._here - self._at))
        except MemoryError:
            self.drop()  # what is borrowed must not be looked at again
            raise
        return taken

    @property
    def empty(self):
        return self._at == self._here and not self._fresh

    cdef object _next(self):
        while self._budget > 0:
            if not self._in_frame:
                found = self._plain(True)
                if found is None:
                    found = self._header()
                if found is not None:
                    return found
                if not self._in_frame:
                    break
            found = self._consume()
            if found is not None:
                return found
            if self._in_frame and self._at == self._here:
                break
        else:
            self._budget = _MOST_FRAMES
            return _PAUSE
        self._budget = _MOST_FRAMES
        if self._at == self._here:
            self._own(b"")
        return None

    cdef object _plain(self, bint all_kinds):
        """Decode a frame that is a whole message, all of it here; None if what is here is none."""
        cdef const uint8_t* data = self._data + self._at
        cdef Py_ssize_t here = self._here - self._at
        cdef Py_ssize_t start, length
        cdef uint8_t first
        cdef uint32_t key = 0
        cdef uint64_t seen
        if here < 2 or self._in_message or self._in_frame or self._checked:
            return None
        first = data[0]
        if first & ~RSV1 not in (FIN | TEXT, FIN | BINARY) or (data[1] > 127) != self._masked:
            return None
        length = payload_length(data, here, &start)
        if length < 0 or length > self._max_size:
            return None
        if first & RSV1 and (
            self._inflater is None or self._streams or not all_kinds or length > _SLICE
        ):
            return None
        if self._masked:
            start += 4
        if length > here - start:
            return None
        if self._masked:
            memcpy(&key, data + start - 4, 4)
        if first & RSV1:
            self._budget -= _SLICE_COST
            message = PyBytes_FromStringAndSize(NULL, length)
            mask_into(<uint8_t*>PyBytes_AS_STRING(message), data + start, length, key)
            message = self._inflater.feed(message) + self._inflater.finish()
            if first & TEXT:
                message = _decode(message, True)
        elif first & TEXT:
            message = PyUnicode_New(length, 127)
            seen = mask_into(<uint8_t*>PyUnicode_DATA(message), data + start, length, key)
            if not is_ascii(seen):
                message = PyBytes_FromStringAndSize(NULL, length)
                mask_into(<uint8_t*>PyBytes_AS_STRING(message), data + start, length, key)
                message = _decode(message, all_kinds)
                if message is None:
                    return None
        else:
            message = PyBytes_FromStringAndSize(NULL, length)
            mask_into(<uint8_t*>PyBytes_AS_STRING(message), data + start, length, key)
        self._at += start + length
        return message

    cdef object _header(self):
        """Begin a data frame, or decode a whole control frame; None if more is needed, or begun."""
        cdef const uint8_t* data = self._data + self._at
        cdef Py_ssize_t here = self._here - self._at
        cdef Py_ssize_t start, length
        cdef int opcode
        cdef uint8_t first
        cdef bint begins, wrong
        if here < 2:
            return None
        first = data[0]
        opcode = first & 0x0F
        wrong = BINARY < opcode < FIRST_CONTROL or opcode > LAST_CONTROL
        if opcode >= FIRST_CONTROL and not wrong:
            wrong = (
                first & (FIN | RSV) != FIN
                or (data[1] > 127) != self._masked
                or data[1] & 127 > LONGEST_CONTROL
            )
        if wrong:
            raise refusal(self._head(2), client=not self._masked)
        length = payload_length(data, here, &start)
        if length == NOT_HERE:
            return None
        if opcode >= FIRST_CONTROL:
            start += length + 4 * self._masked
            if here < start:
                return None
            frame = self._head(start)
            self._at += start
            found = control_frame(frame, client=not self._masked)
            if opcode == FIRST_CONTROL:
                self.drop()
            return found
        if length == WRONG:
            raise refusal(self._head(start), client=not self._masked)
        begins = opcode != CONTINUATION
        if begins:
            self._compressed = first & RSV1 and self._inflater is not None
        self._assembler.check(length, continues=not begins, compressed=self._compressed)
        if first & RSV and not (first & RSV == RSV1 and begins and self._compressed):
            raise refusal(self._head(start), client=not self._masked)
        if (data[1] > 127) != self._masked:
            header = bytes([first & ~RSV]) + self._head(start)[1:]
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
            self._payload.is_text = opcode == TEXT
        return None

    cdef object _consume(self):
        """Take what is here of the frame under way; return what that completes."""
        cdef Py_ssize_t size = min(self._here - self._at, self._left)
        cdef bint ends
        self._fresh = False
        if self._compressed and size > _SLICE:
            size = _SLICE
        ends = size == self._left
        if size and self._compressed:
            self._inflate(size)
            self._budget -= _SLICE_COST
        elif size:
            self._add(size)
        if ends:
            self._in_frame = False
            self._budget -= 1
            self._assembler.finished_frame(fin=self._fin)
            if self._fin and self._compressed:
                self._payload.add(self._inflater.finish())
        if not self._payload.check(ends and self._fin):
            raise _not_utf8()
        if ends and self._fin:
            self._in_message = False
            message = self._payload.take()
            return self._assembler.add(message, last=True) if self._streams else message
        if self._streams and self._payload.valid:
            return self._assembler.add(self._payload.take(), last=False)
        return None

    cdef int _inflate(self, Py_ssize_t size) except -1:
        packed = PyBytes_FromStringAndSize(NULL, size)
        mask_into(
            <uint8_t*>PyBytes_AS_STRING(packed),
            self._data + self._at,
            size,
            self._turned_key(size),
        )
        self._at += size
        self._left -= size
        self._payload.add(self._inflater.feed(packed))
        return 0
