"""The tasks of a run, and where each of them stands."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import trio

__all__ = ["running_tasks", "where"]


def running_tasks(spared: Collection[trio.Nursery] = ()) -> Iterator[trio.lowlevel.Task]:
    """Yield the tasks of this run, but for those in or below some nurseries, and the root task."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    nurseries = list(root.child_nurseries)
    while nurseries:
        nursery = nurseries.pop()
        if nursery not in spared:
            for task in nursery.child_tasks:
                yield task
                nurseries += task.child_nurseries


def where(task: trio.lowlevel.Task) -> str:
    """Name a task, the line that its outermost function is at, and its nursery's task."""
    frame = getattr(task.coro, "cr_frame", None)  # a compiled coroutine may have none
    line = "" if frame is None else f" at {frame.f_code.co_filename}:{frame.f_lineno}"
    assert task.parent_nursery is not None, "only the root task has none"
    return f"{task.name}{line}, in a nursery of {task.parent_nursery.parent_task.name}"
