"""Progress of downloads on stderr, drawn by `wordmask.bars`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wordmask.files import size_text
from wordmask.progress import is_quiet, teller

if TYPE_CHECKING:
    from wordmask.bars import Bar

_displays: list[Any] = []


@contextmanager
def making_room(display: Any) -> Iterator[None]:
    """A display with `start` and `stop`, such as a spinner of rich, that gives way to downloads."""
    _displays.append(display)
    try:
        yield
    finally:
        _displays.remove(display)


class Transfer:
    """The download of some files, as a context.

    Args:
        title: where from and where to, printed once.
        sizes: of each file in bytes, by name.
        shown: False prints nothing, as `progress.quietly` does.
    """

    def __init__(self, title: str, sizes: Mapping[str, int], shown: bool = True):
        self.title, self.sizes, self.shown = title, sizes, shown and not is_quiet()
        self.total = sum(sizes.values())
        self.finished = 0  # bytes of files that are complete
        self.current, self.done = "", 0
        self.bar: Bar | None = None
        self.tell = teller()

    def __enter__(self) -> Transfer:
        self.started = time.monotonic()
        if self.shown:
            for display in _displays:
                display.stop()
            self._say(self.title)
            self._start_bar()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.tell("")
        if self.bar is None:
            return
        self.bar.stop()
        if kind is None:
            seconds = time.monotonic() - self.started
            self._say(f"fetched {size_text(self.total)} in {seconds:.0f} s")
        elif kind is KeyboardInterrupt:
            self._say(
                f"download stopped: {size_text(self.finished)} in complete files are kept, "
                f"{self.current} will start again at its beginning"
            )
        for display in _displays:
            display.start()

    def file(self, name: str) -> type:
        """What the hub's library takes as the class of its progress bars, for one file."""
        transfer = self

        class Hub:
            """The methods of tqdm that are called: bytes written, and bytes received."""

            def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any):
                self.n, self.received, self.total = initial, initial, total
                self.format_dict: dict[str, Any] = {}

            def update(self, count: float = 1) -> None:
                self.n += int(count)
                transfer._show(name, max(self.n, self.received))

            def update_transfer(self, count: float) -> None:
                self.received += int(count)
                transfer._show(name, max(self.n, self.received))

            def nothing(self, *_: Any, **__: Any) -> None:
                """What only matters to tqdm's own drawing."""

            set_postfix_str = set_transfer_postfix_str = set_description = nothing
            refresh = close = clear = nothing

            def __enter__(self) -> Hub:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

        self.current, self.done = name, 0
        return Hub

    def end_file(self) -> None:
        """The present file is complete."""
        size = self.sizes[self.current]
        self._show(self.current, size)
        self.finished, self.done = self.finished + size, 0

    def _show(self, name: str, done: int) -> None:
        self.done = min(done, self.sizes[name])
        if self.total:
            so_far = size_text(self.finished + self.done)
            self.tell(f"{name}: {so_far} of {size_text(self.total)}")
        if self.bar is not None:
            self.bar.update(self.task, completed=self.finished + self.done, description=name)

    def _start_bar(self) -> None:
        from wordmask.bars import BYTES, Bar

        self.bar = Bar()
        self.task = self.bar.add_task("", total=self.total, unit=BYTES)
        self.bar.start()

    def _say(self, text: str) -> None:
        print(f"wordmask: {text}", file=sys.stderr, flush=True)
