# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True
"""The lanes, natively; `lanes` says what they are for, and `pure_lanes` is their twin in Python."""

from trio import BrokenResourceError, ClosedResourceError

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject_Size
from cpython.unicode cimport PyUnicode_CheckExact
from libc.math cimport INFINITY
from libc.string cimport memcpy

from .protocol._frame cimport frame, head

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(object) noexcept

cdef enum:
    CALLS = 64
    BYTES = 65536
    GATHER = 65536
    LARGE = 16384
    READ = 16384
    TEXT = 0x81
    BINARY = 0x82


cdef class Turn:
    """What the tasks of one run have received, or sent, since one of them last ran a checkpoint."""

    def due(self, Py_ssize_t size):
        """Count a call of so many bytes; tell whether it must run a checkpoint."""
        if self.count(size):
            return False
        self.taken()
        self.size = size
        return True

    def taken(self):
        """Hear that a task has run a checkpoint."""
        self.calls = self.size = 0
        if self.other is not None:
            self.other.calls = self.other.size = 0

    cdef inline bint count(self, Py_ssize_t size) noexcept:
        """Count a call, unless a checkpoint is due."""
        if self.calls + 1 >= CALLS or self.size + size > BYTES:
            return False
        self.calls += 1
        self.size += size
        return True


cdef inline Py_ssize_t length_of(object message) noexcept:
    """Return the length of a message, in characters or bytes; -1 if it is none."""
    if PyUnicode_CheckExact(message):
        return PyUnicode_GET_LENGTH(message)
    if PyBytes_CheckExact(message):
        return PyBytes_GET_SIZE(message)
    return -1


cdef class InLane:
    """The inbox: what is decoded and not yet taken."""

    def __init__(self, Turn turn not None, framer, limits, double now):
        self.turn = turn
        self.inbox = []
        self.framer = framer
        self.most_bytes = int(min(limits.inbox_bytes, PY_SSIZE_T_MAX))
        self.most_messages = int(min(limits.inbox_messages, PY_SSIZE_T_MAX))
        self.most_read = limits.read
        self.read_size = min(READ, limits.read)
        self.undecoded = True
        self.last_heard = now
        self.pace = INFINITY

    def keep(self, data, double now):
        """Keep what was read, undecoded."""
        cdef Py_ssize_t size = PyObject_Size(data)
        self.pace = now - self.last_heard
        self.last_heard = now
        self.bytes_received += size
        self.undecoded = True
        self.framer.feed(data)
        if size >= self.read_size:
            self.read_size = min(2 * size, self.most_read)
        elif self.read_size > READ and 4 * size < self.read_size:
            self.read_size //= 2

    def decode(self):
        """Decode what needs no second thought, in bulk."""
        cdef list inbox = self.inbox
        cdef Py_ssize_t before = len(inbox)
        self.inbox_size += self.framer.pull(
            inbox, self.most_bytes - self.inbox_size, self.most_messages - before
        )
        self.messages_received += len(inbox) - before
        if self.framer.empty:
            self.undecoded = False

    def check_marks(self):
        """Note whether the inbox is at its mark."""
        if self.inbox_size >= self.most_bytes or len(self.inbox) >= self.most_messages:
            self.is_full = True

    def take(self):
        """Take the first message; None if there is none, it is a piece, or a checkpoint is due."""
        return self.first(False)

    cdef object first(self, bint paid):
        cdef list inbox = self.inbox
        cdef Py_ssize_t left = len(inbox)
        cdef Py_ssize_t length
        if not left:
            return None
        message = inbox[0]
        length = length_of(message)
        if length < 0 or not (paid or self.turn.count(length)):
            return None
        del inbox[0]
        if left == 1:
            if self.is_full:
                self.emptied()
            self.inbox_size = 0
        return message

    def pop(self):
        """Take the first message or piece, whatever is due."""
        cdef list inbox = self.inbox
        if not inbox:
            raise IndexError("the inbox is empty")
        message = inbox[0]
        del inbox[0]
        if not inbox:
            if self.is_full:
                self.emptied()
            self.inbox_size = 0
        return message

    def emptied(self):
        """Note that the inbox is empty."""
        self.inbox_size = 0
        self.is_full = False


cdef class OutLane:
    """The outgoing queue, and the way of a message that may go without a second thought."""

    def __init__(self, Turn turn not None, list marked not None, limits):
        self.turn = turn
        self.marked = marked
        self.size_mark = int(min(limits.outbox_bytes, PY_SSIZE_T_MAX))
        self.frames_mark = int(min(limits.outbox_frames, PY_SSIZE_T_MAX))
        self.data = []
        self.control = []
        self.open = True

    def offer(self, message, list waiting not None, bint paid=False):
        """Send a plain message; False if that needs a second thought, or a checkpoint not paid."""
        return self.pass_plain(message, waiting, paid)

    cdef bint pass_plain(self, message, list waiting, bint paid) except -1:
        cdef Py_ssize_t length = length_of(message)
        cdef Py_ssize_t size = length
        cdef bint is_text = PyUnicode_CheckExact(message)
        if is_text and not PyUnicode_IS_COMPACT_ASCII(message):
            size = 4 * length
        if length < 0 or size > self.plain or not self._has_room():
            return False
        if not paid and not self.turn.count(length):
            return False
        if length >= LARGE and self.write_both is not None and self.token_bytes is None:
            if self._is_idle():
                return self._write_large(TEXT if is_text else BINARY, message)
        key = None if self.token_bytes is None else self.token_bytes(4)
        encoded = frame(TEXT if is_text else BINARY, message, key)
        self._enqueue(encoded, length < LARGE and len(waiting) > 0)
        return self.open

    def offer_encoded(self, bint is_text, bytes data not None, list waiting not None):
        """Do as `offer`, with a message that is encoded already, and not large."""
        return self.pass_encoded(is_text, data, waiting)

    cdef bint pass_encoded(self, bint is_text, bytes data, list waiting) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if size > self.plain or size >= LARGE or not self._has_room():
            return False
        if not self.turn.count(size):
            return False
        key = None if self.token_bytes is None else self.token_bytes(4)
        self._enqueue(frame(TEXT if is_text else BINARY, data, key), len(waiting) > 0)
        return self.open

    cdef bint _write_large(self, int first, message) except -1:
        """Write a frame past the empty queue, from where its payload is."""
        cdef Py_ssize_t taken, size
        cdef bytes start
        if PyUnicode_CheckExact(message) and not PyUnicode_IS_COMPACT_ASCII(message):
            message = message.encode()
        size = PyObject_Size(message)
        start = head(first, size)
        self.messages_sent += 1
        try:
            taken = self.write_both(start, message)
        except (BrokenResourceError, ClosedResourceError) as error:
            self.broke(error)
            return self.open
        self.bytes_sent += taken
        if taken < len(start) + size:
            body = message.encode() if PyUnicode_CheckExact(message) else message
            self.size += len(start) + size - taken
            if taken < len(start):
                self.left_over(memoryview(start + body)[taken:])
            else:
                self.left_over(memoryview(body)[taken - len(start):])
        elif self.parked:
            self.wake()
        return self.open

    def pass_on(self, bytes encoded not None, Py_ssize_t size, bint later):
        """Queue a frame made for many; return whether it is out, None if it needs more thought."""
        if self.token_bytes is not None or size > self.plain or not self._has_room():
            return None
        self._enqueue(encoded, later)
        return self.size == 0 if self.open else None

    def has_room(self):
        """Whether a message may be queued now."""
        return self._has_room()

    cdef inline bint _has_room(self) except -1:
        return (
            self.open
            and not self.detours
            and self.size < self.size_mark
            and len(self.data) < self.frames_mark
        )

    def enqueue(self, bytes encoded not None, *, bint later):
        """Queue a message of one frame, whatever the marks say, and see that it is written."""
        self._enqueue(encoded, later)

    cdef int _enqueue(self, bytes encoded, bint later) except -1:
        self.messages_sent += 1
        if not later and self.write is not None and self._is_idle():
            self._write_now(encoded)
            return 0
        self.data.append(encoded)
        self.size += PyBytes_GET_SIZE(encoded)
        if later and self.write is not None:
            self._mark()
        else:
            self.schedule()
        return 0

    cdef int _write_now(self, bytes encoded) except -1:
        """Write a frame past the empty queue."""
        cdef Py_ssize_t taken
        try:
            taken = self.write(encoded)
        except (BrokenResourceError, ClosedResourceError) as error:
            self.broke(error)
            return 0
        self.bytes_sent += taken
        if taken < PyBytes_GET_SIZE(encoded):
            self.size += PyBytes_GET_SIZE(encoded) - taken
            self.left_over(memoryview(encoded)[taken:])
        elif self.parked:
            self.wake()
        return 0

    def flush(self):
        """Write what the transport takes now. Never raises: a broken link goes to `broke`."""
        if self.unwritten is None and not self._is_idle():
            self._write_all()

    def write_all(self):
        """Do so with what the kernel did not take last time, too."""
        self._write_all()

    cdef int _write_all(self) except -1:
        cdef Py_ssize_t taken
        if self.write is None or self.dead:
            return 0
        try:
            while True:
                chunk = self._next_chunk()
                if chunk is None:
                    break
                taken = self.write(chunk)
                self._took(taken)
                if taken < PyObject_Size(chunk):
                    self.left_over(memoryview(chunk)[taken:])
                    break
        except (BrokenResourceError, ClosedResourceError) as error:
            self.broke(error)
        if self.parked:
            self.wake()
        return 0

    def next_chunk(self):
        """Take what is to be written next out of the queue: small frames together."""
        return self._next_chunk()

    cdef object _next_chunk(self):
        cdef list data = self.data
        cdef list control = self.control
        cdef Py_ssize_t total, count, at, queued = len(data)
        cdef char* to
        if self.unwritten is not None:
            rest = self.unwritten
            self.unwritten = None
            return rest
        if not control:
            if not queued:
                return None
            if queued == 1:
                return data.pop()
        total = count = 0
        for frame_ in control:
            total += PyBytes_GET_SIZE(<bytes?>frame_)
        while count < queued and total < GATHER:
            total += PyBytes_GET_SIZE(<bytes?>data[count])
            count += 1
        if count == 1 and not control:
            return data.pop(0)
        chunk = PyBytes_FromStringAndSize(NULL, total)
        to = PyBytes_AS_STRING(chunk)
        for frame_ in control:
            memcpy(to, PyBytes_AS_STRING(frame_), PyBytes_GET_SIZE(frame_))
            to += PyBytes_GET_SIZE(frame_)
        for at in range(count):
            frame_ = data[at]
            memcpy(to, PyBytes_AS_STRING(frame_), PyBytes_GET_SIZE(frame_))
            to += PyBytes_GET_SIZE(frame_)
        control.clear()
        del data[:count]
        return chunk

    def took(self, Py_ssize_t count):
        """Count what the transport took."""
        self._took(count)

    cdef inline void _took(self, Py_ssize_t count) noexcept:
        self.bytes_sent += count
        if not self.dead:  # a write that was on its way when all was dropped
            self.size -= count

    cdef inline bint _is_idle(self) except -1:
        return self.unwritten is None and not self.control and not len(self.data)

    def mark(self):
        """Leave what is queued to the next turn, unless the writer waits for the kernel."""
        self._mark()

    cdef int _mark(self) except -1:
        if self.unwritten is None and not self.is_marked:
            self.is_marked = True
            self.marked.append(self)
            if len(self.marked) == 1:
                self.call_turn()
        return 0

    cdef int flush_mark(self) except -1:
        """Write what was left to this turn; a single frame goes past the queue."""
        self.is_marked = False
        if (
            self.open
            and self.unwritten is None
            and not self.control
            and len(self.data) == 1
        ):
            encoded = self.data.pop()
            self.size -= PyBytes_GET_SIZE(encoded)
            self._write_now(encoded)
        else:
            self.flush()
        return 0


def flush_all(list marked not None):
    """Write what was left to this turn of the scheduler, and empty the list."""
    cdef OutLane lane
    lanes = marked[:]
    marked.clear()
    for lane in lanes:
        try:
            lane.flush_mark()
        except Exception as error:
            lane.failed(error)  # the others behind it get their turn
