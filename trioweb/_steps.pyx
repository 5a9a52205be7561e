# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True, auto_pickle=False
"""What `receive`, `send` and `__anext__` return, natively; `steps` says what for.

A `Step` is a coroutine to whoever awaits it, spawns it or throws into it. It does at once what the
lanes can do, or waits for a message and takes it; all else the method's body does, as a coroutine
that the step then stands for.
"""

from functools import update_wrapper
from warnings import warn

from trio import EndOfChannel

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

from ._lanes cimport InLane, OutLane

cdef extern from *:
    """
    /* Cython has no name for this slot. */
    #define SET_SEND(type, function) \\
        (((PyTypeObject *)(type))->tp_as_async->am_send = (sendfunc)(void (*)(void))(function))
    """
    void SET_SEND(type type, int (*function)(Step, object, PyObject**) except -1)

cdef extern from "Python.h":
    int PYGEN_RETURN
    int PYGEN_NEXT
    int PyIter_Send(object iterator, object value, PyObject** result) except -1

cdef enum Kind:
    SEND
    RECEIVE
    #: A `receive` in a loop, which the channel's end ends.
    NEXT

cdef enum Stage:
    #: Nothing is done before it is awaited.
    NEW
    #: `coroutine` waits for a message.
    WAITS
    #: `coroutine` is the method's body.
    BODY
    DONE


cdef class Stepping:
    """What a connection is built on: it knows its lanes."""

    cdef InLane _inlane
    cdef OutLane _outlane

    def __init__(self, InLane inlane not None, OutLane outlane not None):
        self._inlane, self._outlane = inlane, outlane

    def __anext__(self):
        return step_of(self, NEXT, None)


@cython.final
@cython.freelist(64)
cdef class Step:
    """One call of such a method."""

    cdef Stepping ws
    cdef Kind kind
    cdef Stage stage
    #: The function of the body; None for `__anext__`.
    cdef object body
    #: What it sends.
    cdef object message
    cdef object coroutine

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on to where it waits next; `StopIteration` holds what it returns in the end."""
        cdef PyObject* result = NULL
        return outcome(go_on(self, value, &result), result)

    def throw(self, *error):
        """Raise an exception where it waits."""
        cdef PyObject* result = NULL
        if self.stage == DONE:
            raise _reused()
        if self.stage == NEW:
            self.begin_body()
        try:
            return self.coroutine.throw(*error)
        except StopIteration:
            if self.stage != WAITS:
                raise
        except EndOfChannel:
            if self.kind == NEXT:
                raise StopAsyncIteration from None
            raise
        return outcome(go_on_waited(self, &result), result)

    def close(self):
        """End it where it waits."""
        if self.stage == NEW:
            self.begin_body()
        self.stage = DONE
        if self.coroutine is not None:
            self.coroutine.close()

    def __getattr__(self, name):
        if self.stage == NEW:
            self.begin_body()
        if self.coroutine is None:
            raise AttributeError(f"{name!r} of a step that was done at once")
        return getattr(self.coroutine, name)  # cr_await, __name__ and their like

    def __dealloc__(self):
        if self.stage == NEW and self.ws is not None:
            name = "__anext__" if self.kind == NEXT else self.body.__name__
            warn(f"coroutine 'WebSocket.{name}' was never awaited", RuntimeWarning)

    cdef int begin_body(self) except -1:
        self.stage = BODY
        if self.kind == SEND:
            self.coroutine = self.body(self.ws, self.message)
        elif self.kind == RECEIVE:
            self.coroutine = self.body(self.ws)
        else:
            self.coroutine = self.ws.receive()
        return 0


cdef int go_on(Step self, object value, PyObject** result) except -1:
    """Go on to where it waits next, or to its end, as `PyIter_Send` does."""
    cdef int how
    result[0] = NULL
    if self.stage == NEW:
        if value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        self.stage = DONE  # whatever is raised
        if self.kind == SEND:
            if self.ws._outlane.pass_plain(self.message, self.ws._inlane.inbox, False):
                return returns(None, result)
            self.begin_body()
        else:
            message = self.ws._inlane.first(False)
            if message is not None:
                return returns(message, result)
            if not self.ws._inlane.inbox and self.ws._outlane.open:
                self.stage = WAITS
                self.coroutine = self.ws._inlane.wait_message()
            else:
                self.begin_body()
    elif self.stage == DONE:
        raise _reused()
    try:
        how = PyIter_Send(self.coroutine, value, result)
    except EndOfChannel:
        if self.kind == NEXT:
            raise StopAsyncIteration from None
        raise
    if self.stage == WAITS and how == PYGEN_RETURN:
        Py_DECREF(<object>result[0])
        return go_on_waited(self, result)
    return how


cdef int go_on_waited(Step self, PyObject** result) except -1:
    """Take what has come, or let the body see to it."""
    result[0] = NULL
    self.stage = DONE
    message = self.ws._inlane.first(True)  # to wait was a checkpoint
    if message is not None:
        return returns(message, result)
    self.begin_body()
    return go_on(self, None, result)


cdef inline int returns(object given, PyObject** result) except -1:
    Py_INCREF(given)
    result[0] = <PyObject*>given
    return PYGEN_RETURN


cdef object outcome(int how, PyObject* result):
    """Return what is awaited, or raise `StopIteration` with what is returned."""
    given = <object>result
    Py_DECREF(given)
    if how == PYGEN_NEXT:
        return given
    raise StopIteration(given)


cdef object _reused():
    return RuntimeError("cannot reuse already awaited coroutine")


SET_SEND(Step, go_on)


cdef inline Step step_of(Stepping ws, Kind kind, object body):
    cdef Step step = Step.__new__(Step)
    step.ws, step.kind, step.body = ws, kind, body
    return step


def at_once_if_room(body):
    """Let a method `send` take the lane."""

    def send(Stepping self not None, value, *, compress=None):
        if compress is not None:
            return body(self, value, compress=compress)
        step = step_of(self, SEND, body)
        step.message = value
        return step

    return update_wrapper(send, body)


def at_once_if_there(body):
    """Let a method `receive` take the lane."""

    def receive(Stepping self not None):
        return step_of(self, RECEIVE, body)

    return update_wrapper(receive, body)
