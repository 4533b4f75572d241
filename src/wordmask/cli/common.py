"""Helpers shared by the commands: folders, printable text, the console."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wordmask.files import make_folder as make_folder
from wordmask.files import one_line as one_line
from wordmask.files import shown as shown
from wordmask.progress import listening

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

LINE_EVERY = 20.0  # seconds between lines about progress without a terminal


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a text between commas, without blanks and empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `5 h 20 min` or `3 d 4 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def console(stderr: bool = False) -> Console:
    """A rich console on the present stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal on which a progress bar can be redrawn."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner on a terminal with the stage that runs; elsewhere lines about slow stages."""
    if not is_terminal(sys.stderr):
        with listening(_Lines(text).show):
            yield
        return
    from rich.text import Text

    from wordmask.towers.transfer import making_room

    with console(stderr=True).status(Text(one_line(text))) as status, making_room(status):

        def show(stage: str) -> None:
            status.update(Text(one_line(f"{text}: {stage}" if stage else text)))

        with listening(show):
            yield


@contextmanager
def progress_bar(*columns: ProgressColumn, transient: bool = True) -> Iterator[Progress]:
    """A progress bar on a terminal, with the stage that runs; elsewhere lines about slow stages.

    Args:
        columns: in place of rich's own, before the stage.
        transient: whether it disappears at its end.
    """
    from rich.progress import Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    from wordmask.towers.transfer import making_room

    live = is_terminal(sys.stderr)

    class Stage(ProgressColumn):
        text = ""

        def render(self, task: Task) -> Text:
            return Text("" if task.finished else self.text, style="dim")

        def show(self, stage: str) -> None:
            self.text = one_line(stage)

    stage = Stage(Column(no_wrap=True, overflow="ellipsis"))
    bar = Progress(
        *(columns or Progress.get_default_columns()),
        stage,
        console=console(stderr=True),
        transient=transient,
        disable=not live,
    )
    with bar, making_room(bar), listening(stage.show if live else _Lines().show):
        yield bar


class _Lines:
    """Says which stage runs where no bar can be drawn: a line every `LINE_EVERY` seconds."""

    def __init__(self, of: str = ""):
        self.of = of
        self.said = time.monotonic()

    def show(self, stage: str) -> None:
        if stage and time.monotonic() - self.said >= LINE_EVERY:
            self.said = time.monotonic()
            text = f"{self.of}: {stage}" if self.of else stage
            print(f"wordmask: {one_line(text)}", file=sys.stderr, flush=True)
