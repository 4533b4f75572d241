"""Writing files whole or not at all, naming them and their sizes, and where cached ones lie."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wordmask.errors import WordmaskError


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], temporary_name: str | None = None
) -> None:
    """Write a file whole or not at all.

    ``write`` fills a temporary file in the folder of ``path``, which then replaces ``path`` in one
    step. If ``write`` fails or is interrupted, the temporary file is removed and an earlier file of
    that name stays as it was. A link is followed: the file it names is replaced. A kill can leave
    the temporary file, which has a random name; with a ``temporary_name`` of its own, the next
    attempt replaces it.

    Raises:
        WordmaskError: the folder is missing, cannot be written or is full, or ``path`` is
            something that is not a regular file. Other errors of ``write`` pass through.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise WordmaskError(f"cannot write {path}: it exists and is not a file; give a file name")
    temporary = target.with_name(temporary_name or f".{secrets.token_hex(8)}.part")
    try:
        try:
            with open(temporary, "wb" if temporary_name else "xb") as file:
                write(file)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WordmaskError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def alone(lock: Path, result: Path, advice: str) -> Iterator[None]:
    """Hold a lock file, so that no other process writes a result meanwhile; a kill frees it.

    On a file system without locks nobody is kept out.

    Raises:
        WordmaskError: another process holds it; the message names the result and ends in advice.
    """
    from filelock import FileLock, Timeout

    make_folder(lock.parent)
    held = FileLock(lock, thread_local=False)
    with suppress(OSError, NotImplementedError):
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise WordmaskError(
                f"{shown(result)} is being written by another process; {advice}"
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            lock.unlink()
        held.release()


def remove_folder(folder: Path) -> None:
    """Remove a folder with all in it; a kill leaves all of it, or none under its name."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)  # of a run that was killed
    if folder.exists():
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def default_cache_dir() -> Path:
    """Return the folder for cached files.

    $WORDMASK_CACHE; else `wordmask` in $XDG_CACHE_HOME, in %LOCALAPPDATA% on Windows, or in
    ~/.cache.
    """
    if chosen := os.environ.get("WORDMASK_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "wordmask"
    if sys.platform == "win32" and (base := os.environ.get("LOCALAPPDATA")):
        return Path(base) / "wordmask"
    return Path.home() / ".cache" / "wordmask"


def make_folder(folder: str | Path) -> None:
    """Make a folder for results and those above it.

    Raises:
        WordmaskError: it cannot be made, or is a file.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder.exists() and not folder.is_dir():
            raise WordmaskError(
                f"got {shown(folder)} for results; it is a file, give a folder"
            ) from None
        raise WordmaskError(f"cannot make the folder {shown(folder)}: {error.strerror}") from None


def shown(path: str | os.PathLike[str]) -> str:
    """A path as printable text, even if its name is not valid text."""
    return one_line(os.fsencode(path).decode("utf-8", "replace"))


def one_line(text: str, longest: int | None = None) -> str:
    """A text on one line without control characters, cut to `longest` characters if given."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return text if longest is None or len(text) <= longest else f"{text[: longest - 3]}..."


def size_text(size: float) -> str:
    """A number of bytes as text, in decimal units as hubs and disks give them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            number = size / scale
            return f"{number:.{0 if number >= 100 else 1}f} {unit}"
    return f"{max(round(size / 1e3), 1)} kB"
