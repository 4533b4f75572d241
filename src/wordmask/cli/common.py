"""What the commands share besides options: folders, text for people, the console."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmask.errors import WordmaskError

if TYPE_CHECKING:
    from rich.console import Console


def make_folder(folder: Path) -> None:
    """Make a folder for results and those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder.exists() and not folder.is_dir():
            raise WordmaskError(f"got {folder} for results; it is a file, give a folder") from None
        raise WordmaskError(f"cannot make the folder {folder}: {error.strerror}") from None


def one_line(text: str, longest: int | None = None) -> str:
    """A text that prints on one line and steers no terminal, cut to a length where one is given."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return text if longest is None or len(text) <= longest else f"{text[: longest - 3]}..."


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text for people, also where it is not valid text."""
    return one_line(os.fsencode(path).decode("utf-8", "replace"))


def console(stderr: bool = False) -> Console:
    """A rich console on the present stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def is_terminal(stream: Any) -> bool:
    """Whether what is written can be drawn over again."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.text import Text

    with console(stderr=True).status(Text(one_line(text))):
        yield
