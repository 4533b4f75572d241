"""Folders that are written whole or not at all, and pictures in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wordmask.errors import WordmaskError
from wordmask.files import make_folder, shown
from wordmask.formats.base import Item

MARK = ".wordmask"  # a file in folders that may be replaced


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to be filled, which then replaces `path` in two renames.

    Raises:
        WordmaskError: `path` exists and was not made here.
    """
    if path.exists() and not (path / MARK).is_file():
        raise WordmaskError(
            f"{shown(path)} exists and is not from wordmask; choose another out folder"
        )
    fresh, old = (path.with_name(f".{path.name}.{state}.part") for state in ("new", "old"))
    for one in (fresh, old):  # of a run that was killed
        shutil.rmtree(one, ignore_errors=True)
    make_folder(fresh)
    try:
        yield fresh
        (fresh / MARK).touch()
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)
    except OSError as error:
        raise WordmaskError(f"cannot write {shown(path)}: {error.strerror or error}") from error
    finally:
        for one in (fresh, old):
            shutil.rmtree(one, ignore_errors=True)


def link_picture(item: Item, folder: Path) -> None:
    """Put the picture into a folder, by a link where that can be: a hard one, else a symbolic one.

    A hard link is the file itself, which readers that mistrust symbolic links take, and it goes
    along when the folder is packed. A picture that is no file (in an archive, behind an address) is
    left out.
    """
    if not item.picture or not os.path.isfile(item.picture):
        return
    source, link = os.path.realpath(item.picture), folder / item.linked
    make_folder(link.parent)
    for place in (os.link, os.symlink, shutil.copyfile):
        try:
            place(source, link)
            return
        except OSError as error:  # other file systems, Windows without the privilege
            failed = error
    raise failed
