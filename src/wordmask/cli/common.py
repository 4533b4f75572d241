"""Helpers shared by the commands: folders, printable text, the console."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wordmask.files import make_folder as make_folder
from wordmask.files import one_line as one_line
from wordmask.files import shown as shown
from wordmask.progress import is_quiet, listening

if TYPE_CHECKING:
    from rich.console import Console

    from wordmask.bars import Bar

LONGEST_NAME = 48  # of a class, in letters


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a text between commas, without blanks and empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def console(stderr: bool = False) -> Console:
    """A rich console on the present stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def note(text: str) -> None:
    """Print a line that is no result on stderr, unless `--quiet` was given."""
    say(f"wordmask: {one_line(text)}")


def say(line: str) -> None:
    """Print a line on stderr, unless `--quiet` was given."""
    if not is_quiet():
        print(line, file=sys.stderr, flush=True)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show that something runs, for how long, and the steps that it takes, see `wordmask.bars`."""
    from wordmask.bars import counting
    from wordmask.towers.transfer import making_room

    with counting(text) as bar, making_room(bar):
        yield


@contextmanager
def progress_bar(transient: bool = True) -> Iterator[Bar]:
    """A progress bar for tasks that the command counts itself, see `wordmask.bars.Bar`.

    Args:
        transient: whether it disappears at its end.
    """
    from wordmask.bars import Bar
    from wordmask.towers.transfer import making_room

    with Bar(transient) as bar, making_room(bar), listening(bar.show):
        yield bar
