"""What a run has finished so far, on disk, so that it can be resumed after being killed.

A folder holds the journal of one run: `wordmask.json` with the settings that its results depend on,
and for every process that writes one file with a line for each item. A line is written when its
item is finished, so that a kill loses only unfinished items; an incomplete line is ignored. The
names of these files contain a hash of the settings: lines of other settings are never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
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
        self._digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self._own = self.folder / f"wordmask-{self._digest}-{part}.jsonl"
        self._lines: dict[str, tuple[Path, int]] = {}  # key -> file and offset of its line
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
        path, offset = self._lines[key]
        with _open(path, "rb") as file:
            file.seek(offset)
            entry = json.loads(file.readline())
        del entry["key"]
        return dict(entry)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Finished items with their values, one at a time."""
        for key in list(self._lines):
            yield key, self.read(key)

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
        self.begin()
        line = json.dumps({"key": key, **values}).encode() + b"\n"
        with _open(self._own, "ab+") as file:
            end = file.seek(0, 2)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # the last line is incomplete
                    line, end = b"\n" + line, end + 1
            file.write(line)
            file.flush()
        self._lines[key] = self._own, end

    def drop(self, keys: Collection[str]) -> None:
        """Remove items, so that they are done again. No other process may write meanwhile."""
        self.begin()
        dropped = {key for key in keys if key in self._lines}
        if not dropped:
            return
        for path in self._parts():
            with _open(path, "rb") as old:
                entries = ((line, _entry(line)) for line in old)
                kept = [line for line, entry in entries if entry and entry["key"] not in dropped]
            write_atomically(path, partial(_write, b"".join(kept)))
        self._lines, self._ends = {}, {}
        self.refresh()

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
                    if entry:
                        if entry["key"] not in self._lines:
                            new.append(entry["key"])
                        self._lines[entry["key"]] = path, offset
                    offset += len(line)
                self._ends[path] = offset
        return new

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"wordmask-{self._digest}-*.jsonl"))

    def _is_mine(self) -> bool:
        """Whether the folder is claimed for these settings; refuses others."""
        path = self.folder / SETTINGS
        if not path.is_file():
            return False
        advice = "choose another out folder, or overwrite"
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
