"""Progress on stderr in one look: what runs, a bar, how many are done, how fast, the time left.

    loading openai/clip-vit-base-patch16 ━━━━━━━━━━━━━━━━━━━━ 4 s
    segmenting ━━━━━━━━╸━━━━━━━━━━━ 12/40 pictures, 1.3 s each, 0:36 left  diffusion

Without a terminal the same comes as a plain line every few seconds, and nothing is printed while
`progress.quietly` holds.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from wordmask.files import one_line, size_text
from wordmask.progress import is_quiet, listening

LINE_EVERY = 5.0  # seconds between lines without a terminal, and more after the first minutes
SOON = 0.3  # seconds before which a rate says nothing
BYTES = "bytes"  # the unit that is shown as kB, MB and GB


class Bar(Progress):
    """A progress bar of rich whose tasks may have a `unit` (a plural) and a `detail`.

    A task that goes on where an earlier run stopped has `already`, how many were done then. Without
    a terminal `disable` is set, and it prints lines.

    Args:
        transient: whether the bar disappears at its end.
        quiet: print nothing; None: as `progress.is_quiet` says.
    """

    def __init__(self, transient: bool = True, quiet: bool | None = None):
        self.stage = ""
        quiet = is_quiet() if quiet is None else quiet
        terminal = is_terminal(sys.stderr) and not hasattr(sys.stderr, "rich_proxied_file")
        self._lines = not quiet and not terminal
        self._ended = threading.Event()
        self._saying = threading.Lock()
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=_column(32)),
            BarColumn(bar_width=20),
            _Facts(Column(no_wrap=True)),
            _Stage(self),
            console=Console(stderr=True, highlight=False, markup=False, emoji=False),
            transient=transient,
            redirect_stdout=sys.stdout.isatty(),  # else results would end up on stderr
            disable=quiet or not terminal,
        )
        self._began = self._said = time.monotonic()

    def start(self) -> None:
        """Show the bar, or begin to print lines."""
        super().start()
        if self._lines:
            self._ended = threading.Event()
            threading.Thread(target=self._repeat, args=(self._ended,), daemon=True).start()

    def stop(self) -> None:
        """Take the bar away, for a time or for good."""
        self._ended.set()
        if not self.disable:
            super().stop()

    def update(self, task_id: TaskID, *arguments: Any, **changes: Any) -> None:
        """As rich has it."""
        super().update(task_id, *arguments, **changes)
        self.say()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich has it."""
        super().advance(task_id, advance)
        self.say()

    def show(self, stage: str) -> None:
        """Say which stage runs; "" if none does."""
        self.stage = one_line(stage)
        self.say()

    def say(self, always: bool = False) -> None:
        """Print a line if it is time for one, or `always`, and there is no terminal."""
        if not self._lines:
            return
        with self._saying:
            now = time.monotonic()
            if not always and now - self._said < LINE_EVERY * max(1.0, (now - self._began) / 120):
                return
            self._said = now
            tasks = [task for task in self.tasks if not task.finished][:1] or self.tasks[-1:]
            details = [str(task.fields.get("detail", "")) for task in tasks]
            parts = [part for part in (*map(facts, tasks), self.stage, *details) if part]
            heads = [task.description for task in tasks if task.description]
            text = ": ".join([*heads, *([", ".join(parts)] if parts else [])])
            if text:
                print(f"wordmask: {one_line(text, 400)}", file=sys.stderr, flush=True)

    def _repeat(self, ended: threading.Event) -> None:
        while not ended.wait(max(LINE_EVERY, 0.5)):
            self.say()


class _Facts(ProgressColumn):
    """`12/40 pictures, 1.3 s each, 0:36 left`."""

    def render(self, task: Task) -> Text:
        return Text(facts(task))


class _Stage(ProgressColumn):
    """The stage that runs, and the detail of a task."""

    def __init__(self, bar: Bar):
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self.bar = bar

    def render(self, task: Task) -> Text:
        parts = ["" if task.finished else self.bar.stage, str(task.fields.get("detail", ""))]
        return Text(one_line(" ".join(part for part in parts if part)), style="dim")


def _column(width: int) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", max_width=width)


@contextmanager
def counting(text: str) -> Iterator[Bar]:
    """A bar for a piece of work that says itself what it counts, by `progress.steps`."""
    with Bar() as bar:
        task = bar.add_task(one_line(text), total=None)

        def count(what: str, done: int, total: int | None) -> None:
            bar.stage, _, unit = what.rpartition(", ")
            if bar.tasks[0].fields.get("unit") != unit or done < bar.tasks[0].completed:
                bar.reset(task, total=total, unit=unit)
                bar.tasks[0].total = total  # `reset` takes None for "as before"
            bar.update(task, completed=done)

        with listening(bar.show, count):
            yield bar


def facts(task: Task) -> str:
    """How many are done, how fast, and the time left; of a task without a count its age."""
    unit, done = task.fields.get("unit", ""), task.completed
    if task.total is None and not done:
        return duration_text(task.elapsed or 0)
    if unit == BYTES:
        parts = [f"{size_text(done)} of {size_text(task.total or done)}"]
    else:
        of = "" if task.total is None else f"/{task.total:.0f}"
        parts = [f"{done:.0f}{of} {unit}".rstrip()]
    seconds = task.finished_time or task.elapsed or 0
    speed = (done - task.fields.get("already", 0)) / max(seconds, 1e-9)  # a mean, as work varies
    if not done and seconds >= 1:  # one picture may take a while
        parts.append(duration_text(seconds))
    if speed > 0 and seconds >= SOON:
        parts.append(_rate(speed, unit))
        if task.remaining:
            parts.append(f"{duration_text(math.ceil(task.remaining / speed))} left")
    return ", ".join(parts)


def _rate(speed: float, unit: str) -> str:
    if unit == BYTES:
        return f"{size_text(speed)}/s"
    if speed < 1:
        return f"{duration_text(1 / speed) if speed < 0.1 else f'{1 / speed:.1f} s'} each"
    return f"{speed:.{0 if speed >= 10 else 1}f}{f' {unit}' if unit else ''}/s"


def duration_text(seconds: float) -> str:
    """`8 s`, `1:05` (minutes) or `2:03:05` (hours)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal on which a progress bar can be redrawn."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
