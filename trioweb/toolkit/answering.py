"""The calls that a peer makes: each has one answer, and a task where it has to wait."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from math import inf
from typing import Any, NamedTuple, TypeAlias, TypeGuard, cast

import msgspec
import trio

from ..config import CallLimits
from ..errors import CallError, CallLost, CallTimeout, ProtocolError
from ..principals import key_of
from ..types import CloseCode
from .calling import Work, work_of_task
from .methods import Invocation, Method, Methods, Reply
from .peer import Peer, Tally
from .postbox import ENDED, Postbox
from .streams import Credit
from .wire import Call, Cancel, Error, Item, Malformed, More, Notify, Result

__all__ = ["Answering"]

logger = logging.getLogger("trioweb.rpc")

#: Begins a method, or goes on with one, and returns what it returns.
_Begin: TypeAlias = Callable[[], Awaitable[Any]]


class _End(NamedTuple):
    """The end of a call."""

    message: Result | Error
    #: The hooks of a `Reply`.
    sent: Callable[[], object] | None = None
    unsent: Callable[[], object] | None = None


class _Incoming:
    """A call that runs."""

    __slots__ = ("credit", "given_up", "over", "scope")

    def __init__(self, deadline: float, window: int) -> None:
        self.scope = trio.CancelScope(deadline=deadline)
        self.credit = Credit(window)
        #: Whether its caller has given it up.
        self.given_up = False
        #: Whether nothing more is said about it.
        self.over = False


class Answering:
    """Runs what a peer calls, and answers. What the reader calls never waits."""

    def __init__(
        self,
        peer: Peer,
        tally: Tally,
        methods: Methods,
        postbox: Postbox,
        limits: CallLimits,
        nursery: trio.Nursery,
    ) -> None:
        self._peer = peer
        self._tally = tally
        self._methods = methods
        self._postbox = postbox
        self._limits = limits
        self._nursery = nursery
        self._calls: dict[int, _Incoming] = {}
        #: How many of those their callers have given up; their ends may be a moment away.
        self._given_up = 0
        #: The scopes of notifications.
        self._notified: set[trio.CancelScope] = set()
        #: Refusals that wait for room.
        self._unsent = 0

    # --- what the reader calls ---------------------------------------------------------------

    def take_call(self, call: Call) -> None:
        """Run a call, or refuse it."""
        if call.id in self._calls:
            raise Malformed(Error(code="invalid", message=f"call {call.id} is still running"))
        method = self._methods.find(call.method)
        why: CallError | None = None
        if method is None:
            why = CallError("unknown-method", f"there is no method {call.method!r:.80}")
        elif self._is_full:
            why = CallError("busy", "too many calls at once")
        elif call.key is not None and self._methods.once is None:
            why = CallError("invalid", "calls with a key are not taken here", path="$.key")
        if why is not None or method is None:
            assert why is not None
            self._tally.refused += 1
            self.refuse(_error(call.id, why))
            return
        self._tally.taken += 1
        deadline = inf if call.timeout is None else trio.current_time() + call.timeout
        incoming = _Incoming(deadline, call.window)
        if call.key is not None:
            begin: _Begin = partial(self._once, call, incoming)
        elif self._is_quick(call.method, method):
            value = self._run_quick(method, call)
            if isinstance(value, _End) and self._offer(value):
                return
            begin = partial(_value_of, value)
        else:
            begin = partial(self._methods.run, self._invocation(call))
        self._calls[call.id] = incoming
        self._tally.incoming += 1
        self._nursery.start_soon(self._run, call, incoming, begin, name=f"method {call.method}")

    def take_cancel(self, message: Cancel) -> None:
        """End a call that its caller has given up."""
        incoming = self._calls.get(message.id)
        if incoming is not None and not incoming.given_up:
            incoming.given_up = incoming.over = True
            incoming.scope.cancel()
            self._given_up += 1

    def take_more(self, message: More) -> None:
        """Let a stream go on."""
        incoming = self._calls.get(message.id)
        if incoming is not None:
            incoming.credit.add(message.count)

    def take_notify(self, notify: Notify) -> None:
        """Run a method that nobody waits for."""
        method = self._methods.find(notify.method)
        if method is None:
            self._tally.refused += 1
            return
        invocation = Invocation(self._peer, notify.method, notify.params, is_notify=True)
        if self._is_quick(notify.method, method):
            self._tally.taken += 1
            try:
                _call_hook(_unsent(method(self._peer, notify.params)))
            except Exception as error:  # noqa: BLE001 - it is logged there
                self._failure(notify.method, error)
        elif self._is_full:
            self._tally.dropped += 1
        else:
            self._tally.taken += 1
            self._tally.incoming += 1
            name = f"method {notify.method}"
            self._nursery.start_soon(self._run_notified, invocation, name=name)

    def refuse(self, error: Error) -> None:
        """Answer what is not taken, now or later.

        Raises `ProtocolError` for a peer that goes on so and reads no answers.
        """
        self._unsent += 1
        self._postbox.post(lambda: error, self._refusal_sent)
        if self._unsent > self._limits.refusals:
            raise ProtocolError(CloseCode.TRY_AGAIN_LATER, "many calls, and no answer is read")

    def end(self) -> None:
        """Cancel what runs, because the link has ended and nobody can be told."""
        for incoming in self._calls.values():
            incoming.over = True
            incoming.scope.cancel()
        for scope in self._notified:
            scope.cancel()

    def leave(self) -> None:
        """Tell the callers that what runs will be cancelled, as far as there is room to."""
        with suppress(*ENDED):
            for id_, incoming in self._calls.items():
                if not incoming.over:
                    incoming.over = True
                    self._postbox.offer(Error(id=id_, code="cancelled", message="going away"))

    @property
    def _is_full(self) -> bool:
        # A caller that gives up a call has a place for another one at once.
        running, limit = self._tally.incoming, self._limits.incoming
        return running - self._given_up >= limit or running >= 2 * limit

    def _is_quick(self, name: str, method: Method) -> bool:
        return method.is_quick and not self._methods.has_middleware(name)

    def _refusal_sent(self) -> None:
        self._unsent -= 1

    def _invocation(self, call: Call) -> Invocation:
        return Invocation(self._peer, call.method, call.params, call.key)

    def _run_quick(self, method: Method, call: Call) -> Any:
        """Return the end of a call, or what has to be awaited or iterated for it."""
        try:
            value = method(self._peer, call.params)
        except Exception as error:  # noqa: BLE001 - it is logged there
            return self._failed(call, error)
        if inspect.isawaitable(value) or _is_stream(value):
            return value
        return _ended(call, value)

    def _offer(self, end: _End) -> bool:
        """Send the end of a call if there is room; at the link's end, say that it is done."""
        try:
            is_sent = self._postbox.offer(end.message)
        except ENDED:
            _call_hook(end.unsent)
            return True
        except TypeError:
            return False  # the task finds that too, and says so
        if is_sent:
            _call_hook(end.sent)
        return is_sent

    # --- in the tasks ------------------------------------------------------------------------

    async def _run(self, call: Call, incoming: _Incoming, begin: _Begin) -> None:
        work = Work()
        work_of_task.set(work)
        try:
            with incoming.scope:
                end = await self._work(call, incoming, begin)
                if incoming.over:  # a method may be deaf to that
                    _call_hook(end.unsent)
                else:
                    await self._send(call, end)
            if incoming.scope.cancelled_caught and not incoming.over:
                await self._send(call, _End(_error(call.id, CallTimeout("the time is over"))))
        except ENDED:
            pass  # the reader finds that too
        finally:
            work.is_over = True
            del self._calls[call.id]
            self._tally.incoming -= 1
            self._given_up -= incoming.given_up

    async def _work(self, call: Call, incoming: _Incoming, begin: _Begin) -> _End:
        try:
            value = await begin()
            if _is_stream(value):
                await self._stream(call, incoming, value)
                value = None
        except Exception as error:  # noqa: BLE001 - it is logged there
            return self._failed(call, error)
        except BaseExceptionGroup as group:
            raise self._cancelled(call.method, group) from None
        return value if isinstance(value, _End) else _ended(call, value)

    async def _stream(self, call: Call, incoming: _Incoming, items: AsyncIterable[Any]) -> None:
        async with AsyncExitStack() as stack:
            if (aclose := getattr(items, "aclose", None)) is not None:
                stack.push_async_callback(aclose)
            if not call.window:
                raise CallError("invalid", "the method streams", path="$.window")
            async for item in items:
                await trio.lowlevel.checkpoint_if_cancelled()
                await incoming.credit.spend()
                await self._postbox.put(partial(Item, call.id, item))

    async def _once(self, call: Call, incoming: _Incoming) -> _End:
        once = self._methods.once
        assert once is not None
        key = (key_of(self._peer.principal), call.method, call.key)
        while True:
            run = once.run(key, partial(self._outcome, call), incoming.scope.deadline)
            try:
                end = await run.wait()
            finally:
                if incoming.given_up:
                    run.give_up()
            if not run.given_up:
                return _End(msgspec.structs.replace(end, id=call.id))

    async def _outcome(self, call: Call) -> Result | Error:
        """Run a call with a key to its end, whoever waits for that."""
        work = Work()  # it may outlive the call
        work_of_task.set(work)
        try:
            value = await self._methods.run(self._invocation(call))
        except Exception as error:  # noqa: BLE001 - it is logged there
            return self._failed(call, error).message
        except BaseExceptionGroup as group:
            raise self._cancelled(call.method, group) from None
        finally:
            work.is_over = True
        if isinstance(value, Reply) or _is_stream(value):
            _call_hook(_unsent(value))
            return _error(call.id, CallError("invalid", "the method takes no key", path="$.key"))
        return Result(call.id, value)

    async def _run_notified(self, invocation: Invocation) -> None:
        work = Work()
        work_of_task.set(work)
        scope = trio.CancelScope()
        self._notified.add(scope)
        try:
            with scope:
                _call_hook(_unsent(await self._methods.run(invocation)))
        except Exception as error:  # noqa: BLE001 - it is logged there
            self._failure(invocation.method, error)
        except BaseExceptionGroup as group:
            raise self._cancelled(invocation.method, group) from None
        finally:
            work.is_over = True
            self._notified.discard(scope)
            self._tally.incoming -= 1

    async def _send(self, call: Call, end: _End) -> None:
        try:
            await self._postbox.put(lambda: end.message, partial(_call_hook, end.sent))
        except TypeError as error:
            _call_hook(end.unsent)
            internal = self._failed(call, error).message
            await self._postbox.put(lambda: internal)
        except BaseException:
            _call_hook(end.unsent)
            raise

    def _failed(self, call: Call, error: Exception) -> _End:
        return _End(_error(call.id, self._failure(call.method, error)))

    def _failure(self, method: str, error: Exception) -> CallError:
        """Return what the caller is told of what a method raised, and log what it is not."""
        one = _only_one(error)
        # Those are of calls that the method has made itself.
        if isinstance(one, CallError) and not isinstance(one, (CallTimeout, CallLost)):
            return one
        if not (self._peer.link.ended and isinstance(one, ENDED)):
            self._tally.failed += 1
            logger.error("the method %s failed", method, exc_info=error)
        return CallError("internal", "the method failed")

    def _cancelled(
        self, method: str, group: BaseExceptionGroup[BaseException]
    ) -> BaseExceptionGroup[BaseException]:
        """Log what went wrong while a method was cancelled; return what has to go on."""
        errors, others = group.split(Exception)
        if errors is not None:
            self._failure(method, errors)
        return group if others is None else others


async def _value_of(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _ended(call: Call, value: Any) -> _End:
    if isinstance(value, Reply):
        return _End(Result(call.id, value.value), value.sent, value.unsent)
    return _End(Result(call.id, value))


def _error(id_: int, error: CallError) -> Error:
    return Error(id=id_, code=error.code, message=error.message, path=error.path, data=error.data)


def _is_stream(value: Any) -> TypeGuard[AsyncIterable[Any]]:
    return isinstance(value, AsyncIterable)


def _only_one(error: Exception) -> Exception:
    """Return the one exception in a group, which a method with a nursery raises."""
    inside = cast("tuple[Exception, ...]", getattr(error, "exceptions", ()))
    return _only_one(inside[0]) if len(inside) == 1 else error


def _unsent(value: Any) -> Callable[[], object] | None:
    return value.unsent if isinstance(value, Reply) else None


def _call_hook(hook: Callable[[], object] | None) -> None:
    if hook is None:
        return
    try:
        hook()
    except Exception:
        logger.exception("a hook of a reply failed")
