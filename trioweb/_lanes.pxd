cdef class Turn:
    cdef public Turn other
    cdef public Py_ssize_t calls
    cdef public Py_ssize_t size
    cdef bint count(self, Py_ssize_t size) noexcept


cdef class InLane:
    cdef readonly Turn turn
    cdef readonly list inbox
    cdef public Py_ssize_t inbox_size
    cdef public bint is_full
    cdef readonly object framer
    cdef public Py_ssize_t most_bytes
    cdef public Py_ssize_t most_messages
    cdef public Py_ssize_t read_size
    cdef Py_ssize_t most_read
    cdef public bint undecoded
    cdef public double last_heard
    cdef public double pace
    cdef public Py_ssize_t bytes_received
    cdef public Py_ssize_t messages_received
    cdef object first(self, bint paid)


cdef class OutLane:
    cdef readonly Turn turn
    cdef readonly list marked
    cdef readonly list data
    cdef readonly list control
    cdef public object unwritten
    cdef public object write
    cdef public object write_both
    cdef public object token_bytes
    cdef public Py_ssize_t size
    cdef public Py_ssize_t messages_sent
    cdef public Py_ssize_t bytes_sent
    cdef public Py_ssize_t plain
    cdef public Py_ssize_t detours
    cdef Py_ssize_t size_mark
    cdef Py_ssize_t frames_mark
    cdef public bint is_marked
    cdef public bint open
    cdef public bint dead
    cdef public Py_ssize_t parked
    cdef bint pass_plain(self, message, list waiting, bint paid) except -1
    cdef bint pass_encoded(self, bint is_text, bytes data, list waiting) except -1
    cdef bint _write_large(self, int first, message) except -1
    cdef bint _has_room(self) except -1
    cdef int _enqueue(self, bytes encoded, bint later) except -1
    cdef int _write_now(self, bytes encoded) except -1
    cdef int _write_all(self) except -1
    cdef object _next_chunk(self)
    cdef void _took(self, Py_ssize_t count) noexcept
    cdef bint _is_idle(self) except -1
    cdef int _mark(self) except -1
    cdef int flush_mark(self) except -1
