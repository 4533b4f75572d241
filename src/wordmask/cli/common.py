"""Helpers shared by the commands: folders, printable text, the console."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wordmask.files import make_folder as make_folder
from wordmask.files import one_line as one_line
from wordmask.files import shown as shown

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A rich console on the present stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal on which a progress bar can be redrawn."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.text import Text

    from wordmask.towers.transfer import making_room

    with console(stderr=True).status(Text(one_line(text))) as spinner, making_room(spinner):
        yield
