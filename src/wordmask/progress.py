"""Progress of slow stages: code says what it is doing, and whoever wants to know listens.

    for some in steps("points", points.split(16), len(points), len): ...  # in a method or network
    with listening(print): segmenter(picture, words)                      # in a command

Without a listener, nothing happens. How it is drawn: `wordmask.bars`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

Count = Callable[[str, int, int | None], object]
"""Takes what is counted, in the plural, how many are done, and of how many if that is known."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Let nothing about progress be printed, downloads included."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether nothing about progress is to be printed."""
    return _quiet.get()


class _Listener:
    """Who listens, and the stages that run, the outermost first."""

    def __init__(self, show: Callable[[str], object], count: Count | None):
        self.show, self.count = show, count
        self.stages: list[str] = []

    def say(self, depth: int, *text: str) -> None:
        """Put the stage at a depth, without any inside it, or none."""
        self.stages[depth:] = text
        self.show(", ".join(self.stages))


_listener: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(show: Callable[[str], object], count: Count | None = None) -> Iterator[None]:
    """Call `show` with a line such as "sam, points 64/256" whenever a stage of this thread goes on.

    An empty line says that no stage runs. With `count`, the outermost steps are counted by it and
    are not part of the line.
    """
    token = _listener.set(_Listener(show, count))
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Say that a stage runs, until it ends."""
    if (listener := _listener.get()) is None:
        yield
        return
    depth = len(listener.stages)
    listener.say(depth, text)
    try:
        yield
    finally:
        listener.say(depth)


def teller() -> Callable[[str], None]:
    """What says how far a stage of this thread is, from any thread; "" when it has ended."""
    if (listener := _listener.get()) is None:
        return lambda text: None
    depth = len(listener.stages)
    return lambda text: listener.say(depth, *([text] if text else []))


def steps(
    text: str,
    items: Iterable[Item],
    total: int | None = None,
    count: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Item]:
    """The items, one after the other, while a stage says how many are done.

    Args:
        text: what they are. A single item says nothing.
        items: to be gone over.
        total: what their counts add up to; None: the number of `items`, if it is known.
        count: how much an item counts.
    """
    known = len(items) if isinstance(items, Sized) else None
    listener = _listener.get()
    if listener is None or known == 1:
        yield from items
        return
    total, done, depth = known if total is None else total, 0, len(listener.stages)
    counted = None if depth else listener.count
    if counted:
        listener.count = None  # what is inside is a stage
    try:
        for item in items:
            if counted:
                counted(text, done, total)
            else:
                listener.say(depth, f"{text} {done}" if total is None else f"{text} {done}/{total}")
            yield item
            done += count(item)
    finally:
        if counted:
            listener.count = counted
            counted(text, done, total)
        listener.say(depth)
