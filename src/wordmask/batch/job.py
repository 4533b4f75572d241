"""What a folder of results holds and lacks: what is to do, and the sink for what was done."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from wordmask.batch.sources import (
    ImageLabels,
    Inputs,
    Picture,
    add_image_labels,
    digest,
    read_sources,
)
from wordmask.errors import WordmaskError, unknown
from wordmask.files import alone, make_folder, shown, write_atomically
from wordmask.formats import (
    DEFAULT,
    FORMATS,
    check_formats,
    check_names,
    renamed,
    results_of,
    split_formats,
    write_folder_formats,
)
from wordmask.journal import Journal
from wordmask.vocabulary import Background, Vocabulary

if TYPE_CHECKING:
    from wordmask.segmentation import Segmentation


SAMPLE = 50  # pictures from which the disk space of all is estimated
BYTES_A_PIXEL = {"labels": 0.02, "overlay": 0.4}  # of photographs, measured


@dataclass(frozen=True)
class Processed:
    """A picture that was segmented, or that could not be.

    Attributes:
        number, total: index among the pictures left to do, from 1, and their number; None if
            they come one by one.
        picture: the picture.
        result: its labels; None if it failed, or was segmented by another process.
        reason: why it failed, on one line with its path; "" if it did not.
        pixels: (C + 1,) pixels of each label, label 0 (none) first; None if it failed.
    """

    number: int
    total: int | None
    picture: Picture
    result: Segmentation | None
    reason: str = ""
    pixels: np.ndarray | None = None


@dataclass
class Summary:
    """Counts of a run over many pictures.

    Attributes:
        names: the classes (C).
        segmented: number of pictures segmented now.
        skipped: number of pictures skipped, since their results exist.
        failed: why pictures could not be segmented, by path.
        pixels: (C + 1,) pixels of each label over the pictures segmented, label 0 (none) first.
        occurrences: (C + 1,) in how many of the pictures segmented each label occurs.
        seconds: how long it took, without loading the model.
    """

    names: tuple[str, ...]
    segmented: int = 0
    skipped: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    pixels: np.ndarray = field(init=False)
    occurrences: np.ndarray = field(init=False)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.pixels = np.zeros(len(self.names) + 1, dtype=np.int64)
        self.occurrences = np.zeros_like(self.pixels)

    def add(self, one: Processed) -> None:
        """Count a picture."""
        if one.pixels is None:
            self.failed[one.picture.path] = one.reason
        else:
            self.pixels += one.pixels
            self.occurrences += one.pixels > 0
            self.segmented += 1


@dataclass(frozen=True)
class Outcome:
    """What was made of a picture, ready to be written: plain values that any process can send.

    Attributes:
        picture: the picture.
        entry: its line in the journal.
        files: the content of its files by suffix; none if it failed.
        reason: why it failed; "" if it did not.
    """

    picture: Picture
    entry: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    reason: str = ""


class FolderJob:
    """The work of `segment_folder`, checked before a model is loaded.

    An engine takes `records`, makes an `Outcome` of each with an `engine.Mapper`, and gives it to
    `write`, in any order and from any thread.

    Args:
        settings: what `run_settings` returned; all others as for `segment_folder`.

    Attributes:
        pictures: all pictures (of this shard); None if they come one by one.
        todo: those without results; None if they come one by one.
        failed_before: how many of them failed in an earlier run.
        summary: the counts so far.
    """

    def __init__(
        self,
        inputs: Inputs,
        words: Any,
        out: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        background: Any = "auto",
        formats: Sequence[str] = DEFAULT,
        overwrite: bool = False,
        on_error: str = "stop",
        image_labels: ImageLabels | None = None,
        shard: str | None = None,
        keep_encodings: str | os.PathLike[str] | None = None,
        manifest: str | os.PathLike[str] | None = None,
        draft: bool = False,
    ):
        if on_error not in ("stop", "skip"):
            raise unknown("on_error", on_error, ("stop", "skip"))
        if manifest is not None:
            from wordmask.batch.manifest import check_manifest

            check_manifest(manifest)
        self.out = Path(out)
        self.words = Vocabulary.of(words)
        self.background = Background.of(background)
        self.background.check(self.words)
        self.formats = check_formats(formats)
        self.draft = draft
        needs = [one.name for one in split_formats(self.formats)[0] if one.needs == "image"]
        needs += [one["name"] for one in settings["refiners"]]
        if draft and needs:
            raise WordmaskError(
                f"got draft, which reads no whole picture, and {needs[0]}, which takes one; leave "
                "one of them out"
            )
        self.overwrite = overwrite
        self.on_error = on_error
        self.shard = read_shard(shard)
        self.keep_encodings = None if keep_encodings is None else Path(keep_encodings)
        self.manifest = None if manifest is None else Path(manifest)
        self.failed_before = 0
        self._lock = threading.Lock()
        self._claimed = False
        self._alone = ExitStack()
        self._is_there = self.out.exists()
        self._others: list[str] = []  # names of results of other weights
        self._moved: dict[str, dict[str, Any]] = {}  # entries of pictures that lie elsewhere now
        self._renamed: list[tuple[str, str]] = []  # names before and now of pictures that moved
        sources = read_sources(inputs, self.out)
        if isinstance(sources, list):
            check_names(self.formats, (one.name for one in sources))
        labelled = image_labels is not None
        if isinstance(sources, list):
            labelled = labelled or any(one.image_labels is not None for one in sources)
        if labelled:
            chosen: Iterable[Picture] = add_image_labels(sources, image_labels, self.words)
            sources = list(chosen) if isinstance(sources, list) else iter(chosen)
        claim = {
            "classes": self.words.classes,
            "background": self.background.describe(),
            **settings,
            "image_labels": labelled,
            **({} if keep_encodings is None else {"encodings": "float16"}),
            **({"decoding": "draft"} if draft else {}),
        }
        self._part = "0" if self.shard == (0, 1) else f"{self.shard[0] + 1}of{self.shard[1]}"
        self.journal = Journal(self.out, claim, overwrite=overwrite, part=self._part)
        self.summary = Summary(self.words.names)
        self.pictures: list[Picture] | None = None
        self.todo: list[Picture] | None = None
        self._orphans: dict[int, list[str]] = {}  # names of done pictures that are gone, by size
        if isinstance(sources, list):
            self._find_orphans({one.name for one in sources})
            self.pictures = [one for one in sources if self._is_mine(one.name)]
            self.todo = list(self._left(self.pictures))
        else:
            self._stream: Iterator[Picture] = sources

    # -- what is to do ------------------------------------------------------------------------

    def check_first(self, max_pixels: int | None) -> None:
        """Read the first picture left to do, if a bad one would stop the run.

        Raises:
            ImageError: it cannot be read or has more than `max_pixels` pixels.
        """
        from wordmask.images import decode_image

        if self.todo and self.on_error == "stop":
            first = self.todo[0]
            decode_image(first.content(), str(first.path), max_pixels=max_pixels)

    def records(self) -> Iterator[Picture]:
        """The pictures left to do."""
        if self.todo is not None:
            return iter(self.todo)
        return self._left(one for one in self._stream if self._is_mine(one.name))

    def check(self, weights: str, source: str) -> None:
        """Refuse results of other weights of the model `source`, unless they are overwritten.

        Raises:
            WordmaskError: one name stands for other weights: a file was replaced, or the model is
                in memory.
        """
        self._others = [
            key for key, entry in self.journal.items() if entry.get("weights", weights) != weights
        ]
        if self._others and not self.overwrite:
            raise WordmaskError(
                f"{shown(self.out)} holds results of other weights of {source}; choose another "
                "out folder, or overwrite"
            )

    def claim(self) -> None:
        """Make the folder ready for results, before the first is written.

        Raises:
            WordmaskError: another process writes this part of it.
        """
        if self._claimed:
            return
        lock = self.out / f".wordmask-{self._part}.lock"
        advice = "wait for it, or give each a part with shard"
        self._alone.enter_context(alone(lock, self.out, advice))
        self._claimed = True
        for before, now in self._renamed:
            self._rename(before, now)
        if self.overwrite:  # a run that overwrites may be killed and resumed too
            names = [one.name for one in self.todo or ()]
            self.journal.drop([*filter(self._is_mine, self._others), *names])

    def release(self) -> None:
        """Let other processes write what `claim` kept from them."""
        self._alone.close()

    def finish(self) -> list[Path]:
        """Note where pictures lie that have moved, and write the formats of the whole folder.

        Those are made from the label files of all pictures that are done; a shard writes none,
        since others may be at work.

        Returns:
            The files and folders of the whole folder.
        """
        if self._renamed or self._moved:
            self.claim()
        for name, entry in self._moved.items():
            self.journal.append(name, entry)
        if self.shard[1] > 1 or not split_formats(self.formats)[1]:
            return []
        self.journal.refresh()  # what other processes did
        check_names(self.formats, self.journal.keys())  # of pictures that came one by one
        return write_folder_formats(self.out, self.formats, results_of(self.out, self.journal))

    def _is_mine(self, name: str) -> bool:
        """Whether a picture is in this shard; pictures are dealt out by a hash of their names."""
        index, count = self.shard
        value = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        return count == 1 or int.from_bytes(value, "big") % count == index

    def _left(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        for picture in pictures:
            if self._is_done(picture):
                self.summary.skipped += 1
            else:
                yield picture

    def _is_done(self, picture: Picture) -> bool:
        """Whether all results of a picture exist and were made from it as it is now.

        Raises:
            WordmaskError: results of this name exist and are of another picture, or of no run.
        """
        if self.overwrite:
            return False
        if not self.journal.claimed:
            for file in picture.files(self.out, self.formats) if self._is_there else ():
                if file.exists():
                    raise WordmaskError(
                        f"{shown(file)} exists and is not from wordmask; choose another out "
                        "folder, or overwrite"
                    )
        if picture.name not in self.journal:
            return bool(self._orphans) and self._was_renamed(picture)
        entry, now = self.journal.read(picture.name), picture.identity()
        if "error" in entry:
            self.failed_before += 1
            return False
        stayed = all(entry[key] == now[key] for key in ("picture", "size", "modified"))
        if (not stayed or picture.image is not None) and not _is_same(picture, entry):
            if entry["picture"] != now["picture"]:
                raise WordmaskError(
                    f"{shown(self.out / picture.name)} was made from {shown(entry['picture'])} and "
                    f"now {shown(picture.path)} has that name; choose another out folder, or "
                    "overwrite"
                )
            return False
        done = entry.get("image_labels") == now.get("image_labels")
        done = done and all(file.exists() for file in picture.files(self.out, self.formats))
        if done and not stayed:
            self._moved[picture.name] = {**entry, **now}
        return done

    def _find_orphans(self, names: set[str]) -> None:
        """Find what was done and has no picture now: its picture may have another name."""
        if self.overwrite or names.issuperset(self.journal.keys()):
            return
        for key, entry in self.journal.items():
            if key not in names and "error" not in entry and _is_gone(entry["picture"]):
                self._orphans.setdefault(entry["size"], []).append(key)

    def _was_renamed(self, picture: Picture) -> bool:
        """Whether a picture was done under another name, which is noted."""
        now = picture.identity()
        for key in self._orphans.get(now["size"], ()):
            entry = self.journal.read(key)
            if not _is_same(picture, entry) or entry.get("image_labels") != now.get("image_labels"):
                continue
            before = replace(picture, name=key).files(self.out, self.formats)
            files = zip(before, picture.files(self.out, self.formats), strict=True)
            if all(old.exists() or new.exists() for old, new in files):
                self._orphans[now["size"]].remove(key)
                self._renamed.append((key, picture.name))
                self._moved[picture.name] = {**entry, **now}
                return True
        return False

    def _rename(self, before: str, now: str) -> None:
        """Give the results of a picture its new name; a kill between two files does no harm."""
        for one in split_formats(FORMATS)[0]:
            old, new = (self.out / (name + one.suffix.rstrip("/")) for name in (before, now))
            if old.exists():
                make_folder(new.parent)
                try:
                    os.replace(old, new)
                except OSError as error:
                    raise WordmaskError(f"cannot rename {shown(old)}: {error.strerror}") from None
        if (summary := self.out / f"{now}.json").is_file():
            text = renamed(summary.read_bytes(), now, self._moved[now]["picture"])
            write_atomically(summary, _writer(text))
        self.journal.drop([before])
        self.journal.append(now, self._moved.pop(now))

    def estimate(self) -> int | None:
        """About how many bytes the results of the pictures left to do will take.

        From the sizes of results that are there, else of some pictures; None if neither is known.
        """
        left = self.todo or []
        there = [one for one in self.pictures or () if one.name in self.journal][:SAMPLE]
        sizes = [_sizes(one.files(self.out, self.formats)) for one in there]
        if sizes := [one for one in sizes if one]:
            return round(len(left) * sum(sizes) / len(sizes))
        pixels = [_pixels(one) for one in left[:: max(len(left) // SAMPLE, 1)]]
        known = [one for one in pixels if one]
        if not known:
            return None
        classes = len(self.words.names)
        each = {"labels": 0, "overlay": 0, "scores": 3000 * classes, "json": 1500 + 120 * classes}
        fixed = sum(each.get(one, 0) for one in self.formats)
        share = sum(BYTES_A_PIXEL.get(one, 0.0) for one in self.formats)
        return round(len(left) * (fixed + share * sum(known) / len(known)))

    # -- what was done ------------------------------------------------------------------------

    def write(self, outcome: Outcome) -> None:
        """Write the results of one picture, each file whole or not at all, and then its line.

        Any thread may call it.

        Raises:
            WordmaskError: a result cannot be written.
        """
        if outcome.files or self.on_error == "skip":
            with self._lock:
                self.claim()
        for one in split_formats(self.formats)[0] if outcome.files else ():
            one.clear(self.out, outcome.picture.name, outcome.files)
        for suffix, content in outcome.files.items():
            file = self.out / (outcome.picture.name + suffix)
            make_folder(file.parent)
            name = hashlib.blake2b(os.fsencode(file.name), digest_size=8).hexdigest()
            write_atomically(file, _writer(content), f".{name}.part")
        if outcome.files or self.on_error == "skip":
            with self._lock:
                self.journal.append(outcome.picture.name, outcome.entry)

    def share(self, number: int) -> FolderJob:
        """The same job for a worker, which appends to a file of its own and checks nothing."""
        other = copy.copy(self)
        other.journal = self.journal.sibling(f"w{number}")
        other.todo, other.pictures, other.manifest, other._orphans = [], [], None, {}
        other.summary = Summary(self.words.names)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {key: one for key, one in vars(self).items() if key not in ("_lock", "_alone")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _alone=ExitStack())


def read_shard(text: str | None) -> tuple[int, int]:
    """Index from 0 and number of the shards of `2/8`.

    Raises:
        WordmaskError: it is none.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", "1/1" if text is None else text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise WordmaskError(f"got the shard {text!r}; write I/N with I from 1 to N: 1/8 to 8/8")
    return int(match[1]) - 1, int(match[2])


def _is_same(picture: Picture, entry: Mapping[str, Any]) -> bool:
    """Whether the content of a picture is that of which an entry tells."""
    if entry["size"] != picture.identity()["size"] or "hash" not in entry:
        return False
    try:
        return digest(picture.content()) == entry["hash"]
    except WordmaskError:  # said when it is segmented
        return False


def _is_gone(path: str) -> bool:
    """Whether a picture is no longer where an entry says, be it in a shard; not one from memory."""
    shard, inside, _ = path.partition(f".tar{os.sep}")
    return os.path.isabs(path) and not os.path.exists(f"{shard}.tar" if inside else path)


def _sizes(files: Iterable[Path]) -> int:
    """Bytes of files; 0 if one is missing."""
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _pixels(picture: Picture) -> int:
    """Pixels of a picture, of which only the head is decoded; 0 if it cannot be read."""
    try:
        with PIL.Image.open(io.BytesIO(picture.content())) as image:
            return image.width * image.height
    except (WordmaskError, OSError, PIL.Image.DecompressionBombError):
        return 0


def _writer(content: bytes) -> Callable[[Any], object]:
    return lambda file: file.write(content)
