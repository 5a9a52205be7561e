# cython: language_level=3, boundscheck=False, wraparound=False
"""Reads and writes of a socket that never wait, without what Python's sockets do around them.

The GIL is kept, but for what takes long: these calls are shorter than giving it up and asking for
it again. Their twin is `pure_sockets`.
"""

import trio

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strerror

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    int resize_bytes "_PyBytes_Resize"(PyObject**, Py_ssize_t) except -1
    char* bytes_at "PyBytes_AS_STRING"(PyObject*) noexcept
    void Py_DECREF(PyObject*)
    bint PyUnicode_Check(object) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(object) noexcept
    void* PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    object PyMemoryView_FromMemory(char*, Py_ssize_t, int)
    int PyBUF_READ

cdef extern from "<errno.h>" nogil:
    int EWOULDBLOCK

cdef extern from *:
    """
    #define TRIOWEB_LARGE (262144 + 4096)
    static _Thread_local char trioweb_large[TRIOWEB_LARGE];
    """
    char* large "trioweb_large"
    Py_ssize_t LARGE "TRIOWEB_LARGE"

cdef extern from *:
    """
    typedef void* volatile trioweb_pointer;
    """
    ctypedef void* volatile_pointer "trioweb_pointer"

cdef extern from "<sys/uio.h>" nogil:
    pass

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t recv(int, void*, size_t, int)
    Py_ssize_t send(int, const void*, size_t, int)
    struct iovec:
        void* iov_base
        size_t iov_len

    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen

    Py_ssize_t sendmsg(int, const msghdr*, int)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    #: Reads of at most so many bytes go over the stack: most are shorter than what they could be.
    ON_STACK = 16384
    #: From here on copying takes longer than the GIL.
    LONG = 65536
    #: Bytes of a block whose like is not given back: the largest message, and what holds it.
    KEPT = 2097152


cdef class SocketCalls:
    """The calls of a non-blocking socket; whoever made it owns the descriptor."""

    cdef int _fd

    def __cinit__(self):
        self._fd = -1

    def attach(self, sock):
        """Use a socket from now on."""
        self._fd = sock.fileno()

    def detach(self):
        """Use it no more: it is about to be closed, and its number given to another."""
        self._fd = -1

    def read_nowait(self, Py_ssize_t max_bytes):
        """Return the bytes that are there, ``b""`` at the end, None where one must wait."""
        cdef char[ON_STACK] stack
        cdef PyObject* found
        cdef Py_ssize_t size
        if max_bytes < 0:
            raise ValueError("a negative number of bytes")
        if max_bytes <= ON_STACK:
            size = self._recv(stack, max_bytes)
            return None if size < 0 else PyBytes_FromStringAndSize(stack, size)
        found = new_bytes(NULL, max_bytes)
        try:
            size = self._recv(bytes_at(found), max_bytes)
            if size < 0:
                return None
            resize_bytes(&found, size)
            return <object>found
        finally:
            if found is not NULL:
                Py_DECREF(found)

    def borrow_nowait(self, Py_ssize_t max_bytes):
        """Do as `read_nowait`, but what is returned is only valid until the thread's next call.

        Large reads then need no memory of their own, which the system would have to give anew.
        """
        cdef Py_ssize_t size
        if max_bytes <= ON_STACK or max_bytes > LARGE:
            return self.read_nowait(max_bytes)
        _keep_memory()
        size = self._recv(large, max_bytes)
        if size < 0:
            return None
        if size <= ON_STACK:
            return PyBytes_FromStringAndSize(large, size)
        return PyMemoryView_FromMemory(large, size, PyBUF_READ)

    def write_nowait(self, data not None):
        """Return how many of the bytes were taken, 0 where one must wait."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self._send(<const char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def write_both_nowait(self, bytes head not None, body not None):
        """Do as `write_nowait` with a head and a large body, bytes or ASCII, which is not copied."""
        cdef iovec[2] pieces
        cdef msghdr message
        cdef Py_ssize_t count
        memset(&message, 0, sizeof(message))
        pieces[0].iov_base = PyBytes_AS_STRING(head)
        pieces[0].iov_len = PyBytes_GET_SIZE(head)
        if isinstance(body, bytes):
            pieces[1].iov_base = PyBytes_AS_STRING(body)
            pieces[1].iov_len = PyBytes_GET_SIZE(body)
        elif PyUnicode_Check(body) and PyUnicode_IS_COMPACT_ASCII(body):
            pieces[1].iov_base = PyUnicode_DATA(body)
            pieces[1].iov_len = PyUnicode_GET_LENGTH(body)
        else:
            raise TypeError("a body is bytes, or str that is ASCII")
        message.msg_iov = pieces
        message.msg_iovlen = 2
        while True:
            with nogil:
                count = sendmsg(self._fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if count >= 0 or errno != EINTR:
                return _sent(count)

    cdef Py_ssize_t _recv(self, char* to, Py_ssize_t size) except -2:
        """Return the bytes read, -1 where one must wait."""
        cdef Py_ssize_t count
        while True:
            if size < LONG:
                count = recv(self._fd, to, size, MSG_DONTWAIT)
            else:
                with nogil:
                    count = recv(self._fd, to, size, MSG_DONTWAIT)
            if count >= 0 or errno != EINTR:
                break
        if count < 0 and errno != EAGAIN and errno != EWOULDBLOCK:
            _fail(errno)
        return count

    cdef Py_ssize_t _send(self, const char* data, Py_ssize_t size) except -2:
        """Return the bytes taken, 0 where one must wait."""
        cdef Py_ssize_t count
        while True:
            if size < LONG:
                count = send(self._fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            else:
                with nogil:
                    count = send(self._fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if count >= 0 or errno != EINTR:
                break
        return _sent(count)


cdef bint _keeps_memory = False


cdef void _keep_memory() noexcept:
    """Let glibc keep a little of what is freed.

    Else it gives the memory of large messages back and asks for it anew with each read. It learns
    that from the largest block that was ever freed.
    """
    global _keeps_memory
    cdef volatile_pointer block  # else the compiler leaves both calls out
    if not _keeps_memory:
        _keeps_memory = True
        block = malloc(KEPT)
        free(<void*>block)


cdef Py_ssize_t _sent(Py_ssize_t count) except -1:
    """Return the bytes taken, 0 where one must wait."""
    if count >= 0:
        return count
    if errno != EAGAIN and errno != EWOULDBLOCK:
        _fail(errno)
    return 0


cdef int _fail(int number) except -1:
    """Raise what a transport raises."""
    if number == EBADF:  # we closed it
        raise trio.ClosedResourceError("transport is closed")
    reason = strerror(number).decode("utf-8", "replace")
    raise trio.BrokenResourceError(reason) from OSError(number, reason)
