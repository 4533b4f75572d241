"""Encodings that are kept for more questions: files in a folder, which all workers read."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.files import shown, write_atomically
from wordmask.serve.limits import Problem

SUFFIX = ".encoding"


class Store:
    """Values by handle and owner, bounded in bytes, number and age; the oldest go first.

    The name of a file is a hash of handle and owner, so that a handle is found by its owner alone.
    The folder must belong to this service: files are pickles, which are code to whoever reads them.

    Args:
        folder: where they lie; made for this user alone.
        most_bytes, most: of all values together.
        seconds: how long a value is kept.

    Raises:
        WordmaskError: others may write into the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        most_bytes: int = 2**30,
        most: int = 1000,
        seconds: float = 600.0,
    ):
        self.folder = Path(folder)
        self.most_bytes, self.most, self.seconds = most_bytes, most, seconds
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and self.folder.stat().st_mode & 0o022:
            raise WordmaskError(
                f"others may write into {shown(self.folder)}, which would let them run code here; "
                "give a folder of this service alone"
            )

    def put(self, handle: str, owner: str, value: Any) -> None:
        """Keep a value; whatever is too old or too much goes.

        Raises:
            Problem: the value alone is larger than all may be.
        """
        data = dump(value)
        if len(data) > self.most_bytes:
            raise Problem(413, f"the encoding has {len(data):,} bytes, and {self.most_bytes:,} fit")
        write_atomically(self._file(handle, owner), partial(_write, data))
        files = sorted(self._files(), reverse=True)  # the newest first
        size, oldest = 0, time.time() - self.seconds
        for number, (made, path, count) in enumerate(files, start=1):
            size += count
            if number > self.most or size > self.most_bytes or made < oldest:
                with suppress(OSError):  # another worker was faster
                    os.unlink(path)

    def get(self, handle: str, owner: str) -> Any:
        """The value of a handle.

        Raises:
            Problem: 404, whether it never was there, is no more, or belongs to another.
        """
        path = self._file(handle, owner)
        try:
            if path.stat().st_mtime >= time.time() - self.seconds:
                return pickle.loads(path.read_bytes())
        except OSError:
            pass
        raise Problem(404, "there is no such encoding, or no longer; encode the picture", handle)

    def held(self) -> tuple[int, int]:
        """Number and bytes of all values."""
        sizes = [size for _, _, size in self._files()]
        return len(sizes), sum(sizes)

    def _files(self) -> Iterator[tuple[float, str, int]]:
        with os.scandir(self.folder) as entries:
            for one in entries:
                with suppress(OSError):
                    if one.name.endswith(SUFFIX):
                        status = one.stat()
                        yield status.st_mtime, one.path, status.st_size

    def _file(self, handle: str, owner: str) -> Path:
        name = hashlib.sha256(f"{len(handle)} {handle} {owner}".encode()).hexdigest()
        return self.folder / f"{name}{SUFFIX}"


class _Pickler(pickle.Pickler):
    """A view of a tensor is kept without the rest of the batch that it was a part of."""

    def reducer_override(self, value: Any) -> Any:
        storage = getattr(value, "untyped_storage", None)
        if storage is not None and storage().nbytes() > value.numel() * value.element_size():
            return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def dump(value: Any) -> bytes:
    """A value as bytes, for `pickle.loads`."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _write(data: bytes, file: Any) -> None:
    file.write(data)
