"""Progress of downloads on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wordmask.progress import teller

LINE_EVERY = 5.0  # seconds

_displays: list[Any] = []


@contextmanager
def making_room(display: Any) -> Iterator[None]:
    """A display with `start` and `stop`, such as a spinner of rich, that gives way to downloads."""
    _displays.append(display)
    try:
        yield
    finally:
        _displays.remove(display)


def size_text(size: float) -> str:
    """A number of bytes as text, in decimal units as hubs and disks give them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            number = size / scale
            return f"{number:.{0 if number >= 100 else 1}f} {unit}"
    return f"{max(round(size / 1e3), 1)} kB"


class Transfer:
    """The download of some files, as a context.

    Args:
        title: where from and where to, printed once.
        sizes: of each file in bytes, by name.
        shown: False prints nothing.
    """

    def __init__(self, title: str, sizes: Mapping[str, int], shown: bool = True):
        self.title, self.sizes, self.shown = title, sizes, shown
        self.total = sum(sizes.values())
        self.finished = 0  # bytes of files that are complete
        self.current, self.done = "", 0
        self.bar: Any = None
        self.tell = teller()

    def __enter__(self) -> Transfer:
        self.started = self.printed = time.monotonic()
        if self.shown:
            for display in _displays:
                display.stop()
            self._say(self.title)
            live = hasattr(sys.stderr, "rich_proxied_file")  # another bar is on the terminal
            if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not live:
                self._start_bar()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.tell("")
        if not self.shown:
            return
        if self.bar is not None:
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

        class Bar:
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

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

        self.current, self.done = name, 0
        return Bar

    def end_file(self) -> None:
        """The present file is complete."""
        size = self.sizes[self.current]
        self._show(self.current, size)
        self.finished, self.done = self.finished + size, 0

    def _show(self, name: str, done: int) -> None:
        self.done = min(done, self.sizes[name])
        so_far = self.finished + self.done
        if self.total:
            self.tell(f"{name}: {size_text(so_far)} of {size_text(self.total)}")
        if self.bar is not None:
            self.bar.update(self.task, completed=so_far, description=name)
            return
        now = time.monotonic()
        if self.shown and now - self.printed >= LINE_EVERY:
            self.printed = now
            rate = so_far / max(now - self.started, 1e-9)
            left = (self.total - so_far) / rate if rate else 0
            self._say(
                f"{name}: {size_text(so_far)} of {size_text(self.total)}, "
                f"{size_text(rate)}/s, {left:.0f} s left"
            )

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.table import Column

        self.bar = Progress(
            BarColumn(bar_width=12),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", max_width=28),
            ),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("", total=self.total)
        self.bar.start()

    def _say(self, text: str) -> None:
        print(f"wordmask: {text}", file=sys.stderr, flush=True)
