"""What a run has counted so far, on disk, so that it survives being killed at any moment.

Pictures are dealt into shards of `SHARD` in the order of the data set, and every shard is one file
that is replaced in one step. A shard is written by one worker alone, so workers need no lock, and
what is there after a kill is whole: pictures in it are counted, all others are not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.files import write_atomically
from wordmask.metrics.collection import Counted

SHARD = 32  # pictures
SETTINGS = "run.json"
PAUSE = 20  # a shard is not written again before this many times what writing it took


@dataclass(frozen=True)
class Answered:
    """What one run made of one picture: counts, and seconds to encode it and to decide."""

    counted: Counted
    encode: float
    decide: float


@dataclass(frozen=True)
class Record:
    """One picture and what every run made of it, in the order of the runs."""

    picture: str
    answers: tuple[Answered, ...]

    def state(self) -> dict[str, Any]:
        """Plain values for JSON."""
        answers = [[a.counted.state(), a.encode, a.decide] for a in self.answers]
        return {"picture": self.picture, "answers": answers}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Record:
        """What `state` gave."""
        answers = (Answered(Counted.from_state(c), e, d) for c, e, d in state["answers"])
        return cls(state["picture"], tuple(answers))


class Shard:
    """The records of one shard, on disk and in memory.

    Args:
        path: its file.
        pictures: ids of all its pictures, in order.
    """

    def __init__(self, path: Path, pictures: Sequence[str]):
        self.path = path
        self.pictures = tuple(pictures)
        self.records = read_shard(path)
        found = tuple(record.picture for record in self.records)
        if found != self.pictures[: len(found)]:
            raise WordmaskError(
                f"{path} holds other pictures than the data set has now; choose another --out, or "
                "--overwrite"
            )
        self._written, self._took = time.perf_counter(), 0.0

    def add(self, record: Record) -> None:
        """Take the record of the next picture; written now or soon."""
        self.records.append(record)
        whole = len(self.records) == len(self.pictures)
        if whole or time.perf_counter() - self._written >= PAUSE * self._took:
            self.write()

    def write(self) -> None:
        """Put all records on disk in one step."""
        start = time.perf_counter()
        text = json.dumps([record.state() for record in self.records])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        self._written = time.perf_counter()
        self._took = self._written - start


def read_shard(path: Path) -> list[Record]:
    """The records in a shard's file; none where there is no file."""
    if not path.exists():
        return []
    try:
        return [Record.from_state(state) for state in json.loads(path.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise WordmaskError(
            f"cannot read {path} ({error}); choose another --out, or --overwrite"
        ) from None


def shards(folder: Path, pictures: Sequence[str]) -> Iterator[tuple[int, Path, Sequence[str]]]:
    """Index, file and pictures of every shard of a folder."""
    for index, start in enumerate(range(0, len(pictures), SHARD)):
        yield index, folder / f"shard-{index:05d}.json", pictures[start : start + SHARD]


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder hold the state of one run, or see that it does already.

    Raises:
        WordmaskError: it holds the state of a run with other settings.
    """
    now = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    if path.exists():
        try:
            earlier = json.loads(path.read_bytes())
        except ValueError:
            earlier = {}
        if earlier == now:
            return
        raise WordmaskError(
            f"{folder} holds a run with {difference(earlier, now)}; choose another --out, or "
            "--overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WordmaskError(f"cannot make the folder {folder}: {error.strerror}") from None
    text = json.dumps(now, indent=1, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def discard(folder: Path) -> None:
    """Remove the state of an earlier run: the files that `claim` and `Shard` wrote, no other."""
    for pattern in ("shard-*.json", SETTINGS):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)


def difference(earlier: Any, now: Any, name: str = "") -> str:
    """The first thing that differs: `other settings.short_side (336 there, 448 now)`."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in [*now, *earlier]:
            if earlier.get(key) != now.get(key):
                path = f"{name}.{key}" if name else str(key)
                return difference(earlier.get(key), now.get(key), path)
    if isinstance(earlier, list) and isinstance(now, list) and len(earlier) == len(now):
        index = next(i for i, (a, b) in enumerate(zip(earlier, now, strict=True)) if a != b)
        return difference(earlier[index], now[index], f"{name}[{index}]")
    return f"another {name or 'form'} ({_short(earlier)} there, {_short(now)} now)"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
