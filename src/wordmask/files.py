"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from wordmask.errors import WordmaskError


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all.

    ``write`` fills a temporary file in the folder of ``path``, which then takes the place of
    ``path`` in one step. Where ``write`` fails or is interrupted, the temporary file is removed and
    an earlier file of that name stays as it was. A link is followed: the file it names is replaced.

    Raises:
        WordmaskError: the folder is missing, cannot be written or is full, or ``path`` is
            something that is not a regular file. Other errors of ``write`` pass through.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise WordmaskError(f"cannot write {path}: it exists and is not a file; give a file name")
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with open(temporary, "xb") as file:
                write(file)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WordmaskError(f"cannot write {path}: {error.strerror or error}") from error
