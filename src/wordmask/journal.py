"""What a run has finished so far, on disk, so that it can be resumed after being killed.

A folder holds the journal of one run: `wordmask.json` with the settings that its results depend on,
and for every process that writes one file with a line for each item. A line is written when its
item is finished, so that a kill loses only unfinished items; an incomplete line is ignored. The
names of these files contain a hash of the settings: lines of other settings are never read. Lines
are never changed: of one key the line with the highest number counts, in whatever file it is, and
a line may say that its key is dropped.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from wordmask.errors import WordmaskError
from wordmask.files import make_folder, one_line, shown, write_atomically

SETTINGS = "wordmask.json"
LINES = "wordmask-" + 12 * "[0-9a-f]" + "-*.jsonl"  # wordmask-DIGEST-PART.jsonl


class Journal:
    """The finished items of a run by key, each with plain values.

    Opening reads the lines of all parts and writes nothing; values stay on disk until they are
    read. The number of processes may differ from that of the run before.

    Args:
        folder: where the journal is kept; made by the first `begin`, `append` or `drop`.
        settings: all that the results depend on, as plain values for JSON.
        overwrite: replace a journal of other settings, if there is one.
        part: the name of this writer; no two processes write the same part at once.

    Attributes:
        claimed: whether the folder held a journal when it was opened.
        digest: a hash of the settings, 12 hexadecimal digits.

    Raises:
        WordmaskError: the folder holds the journal of other settings, one that cannot be read, or
            is a file.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        part: str = "0",
    ):
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.overwrite = overwrite
        text = json.dumps(self.settings, sort_keys=True)
        self.digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self._own = self.folder / f"wordmask-{self.digest}-{part}.jsonl"
        # key -> file and offset of its line, and its number
        self._lines: dict[str, tuple[Path, int, int]] = {}
        self._dropped: dict[str, int] = {}  # key -> number of the line that says so
        self._number = 0  # the highest so far
        self._ends: dict[Path, int] = {}  # how far each file was read
        self._begun = False
        if self.folder.exists() and not self.folder.is_dir():
            raise WordmaskError(f"got {shown(folder)} for results; it is a file, give a folder")
        self.claimed = (self.folder / SETTINGS).is_file()
        if self._is_mine():
            self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def keys(self) -> Collection[str]:
        """The keys of finished items."""
        return self._lines.keys()

    def read(self, key: str) -> dict[str, Any]:
        """The values of a finished item. Raises KeyError if it is not finished."""
        path, offset, _ = self._lines[key]
        with _open(path, "rb") as file:
            return _values(file, offset)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Finished items with their values, one at a time."""
        with ExitStack() as stack:
            files: dict[Path, IO[bytes]] = {}
            for key, (path, offset, _) in list(self._lines.items()):
                if path not in files:
                    files[path] = stack.enter_context(_open(path, "rb"))
                yield key, _values(files[path], offset)

    def sibling(self, part: str) -> Journal:
        """A writer of another part for a process of the same run; it holds no items."""
        other = copy.copy(self)
        other._own = self.folder / f"wordmask-{self.digest}-{part}.jsonl"
        other._lines, other._dropped, other._ends = {}, {}, {}
        return other

    def begin(self) -> None:
        """Make the folder and claim it for these settings, once.

        Raises:
            WordmaskError: it cannot be made, or was claimed for other settings meanwhile.
        """
        if self._begun:
            return
        make_folder(self.folder)
        if not self._is_mine():
            # lines are removed first: after a kill here, old settings without lines do no harm
            for path in set(self.folder.glob(LINES)) - set(self._parts()):
                path.unlink(missing_ok=True)
            text = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
            write_atomically(
                self.folder / SETTINGS, partial(_write, text.encode(errors="surrogatepass"))
            )
        self._begun = True

    def append(self, key: str, values: Mapping[str, Any]) -> None:
        """Record that an item is finished; a later line of the same key replaces it.

        Raises:
            WordmaskError: the disk is full or cannot be written.
        """
        offset = self._write([{"key": key, "#": self._number + 1, **values}])
        self._number += 1
        self._lines[key] = self._own, offset, self._number

    def drop(self, keys: Iterable[str]) -> None:
        """Remove items, so that they are done again."""
        self.begin()
        dropped = [key for key in dict.fromkeys(keys) if key in self._lines]
        if not dropped:
            return
        self._number += 1
        self._write([{"key": key, "#": self._number, "#dropped": True} for key in dropped])
        for key in dropped:
            del self._lines[key]
            self._dropped[key] = self._number

    def _write(self, entries: Sequence[Mapping[str, Any]]) -> int:
        """Append lines to the own file; returns where the first begins."""
        self.begin()
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        with _open(self._own, "ab+") as file:
            end = file.seek(0, 2)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # the last line is incomplete
                    lines, end = b"\n" + lines, end + 1
            file.write(lines)
            file.flush()
        return end

    def refresh(self) -> list[str]:
        """Read the lines added since, also by other processes; returns the new keys."""
        new = []
        for path in self._parts():
            with _open(path, "rb") as file:
                offset = file.seek(self._ends.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # still being written, or incomplete
                        break
                    entry = _entry(line)
                    if entry and self._take(entry, path, offset):
                        new.append(entry["key"])
                    offset += len(line)
                self._ends[path] = offset
        return new

    def _take(self, entry: Mapping[str, Any], path: Path, offset: int) -> bool:
        """Count a line that was read; returns whether its key is new."""
        key, number = entry["key"], entry.get("#", 0)
        self._number = max(self._number, number)
        known = key in self._lines
        if number < (self._lines[key][2] if known else self._dropped.get(key, 0)):
            return False
        if "#dropped" in entry:
            self._lines.pop(key, None)
            self._dropped[key] = number
            return False
        self._lines[key] = path, offset, number
        return not known

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"wordmask-{self.digest}-*.jsonl"))

    def _is_mine(self) -> bool:
        """Whether the folder is claimed for these settings; refuses others."""
        path = self.folder / SETTINGS
        if not path.is_file():
            return False
        advice = "choose another out folder (--out), or overwrite (--overwrite)"
        try:
            earlier = json.loads(path.read_bytes())
        except (OSError, ValueError):
            if self.overwrite:
                return False
            raise WordmaskError(f"cannot read the settings in {shown(path)}; {advice}") from None
        if earlier != self.settings and not self.overwrite:
            raise WordmaskError(
                f"{shown(self.folder)} holds results of {difference(earlier, self.settings)}; "
                f"{advice}"
            )
        return bool(earlier == self.settings)


def difference(earlier: Any, now: Any, name: str = "") -> str:
    """The first setting that differs: `different settings: options.sigma (5.0 there, 3 now)`."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in [*now, *earlier]:
            if key not in earlier or key not in now or earlier[key] != now[key]:
                path = f"{name}.{key}" if name else str(key)
                return difference(earlier.get(key), now.get(key), path)
    if isinstance(earlier, list) and isinstance(now, list) and len(earlier) == len(now):
        for index, (a, b) in enumerate(zip(earlier, now, strict=True)):
            if a != b:
                return difference(a, b, f"{name}[{index}]")
    there, here = _short(earlier), _short(now)
    if there == here and isinstance(earlier, list) and isinstance(now, list):
        there, here = f"{len(earlier)} of them", str(len(now))
    return f"different settings: {name or 'form'} ({there} there, {here} now)"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return one_line(text, 60)


def _entry(line: bytes) -> dict[str, Any] | None:
    """The content of a line; None if it is incomplete."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "key" in entry else None


def _values(file: IO[bytes], offset: int) -> dict[str, Any]:
    file.seek(offset)
    entry = json.loads(file.readline())
    return {name: value for name, value in entry.items() if name not in ("key", "#")}


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


@contextmanager
def _open(path: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        with open(path, mode) as file:
            yield file
    except OSError as error:
        what = "read" if mode == "rb" else "write"
        raise WordmaskError(f"cannot {what} {shown(path)}: {error.strerror or error}") from None
