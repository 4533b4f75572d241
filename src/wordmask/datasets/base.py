"""The base of all benchmarks: pictures with target label maps, in the layout of their release.

Listing a benchmark is cheap (folders and split files, no mask is opened); it is read sample by
sample. Every problem of a copy is a WordmaskError of one line.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt

from wordmask.datasets import reading
from wordmask.datasets.names import read_background, read_names
from wordmask.datasets.reading import Target
from wordmask.errors import WordmaskError, unknown
from wordmask.registry import Registry, check_name
from wordmask.user_code import is_file

SOURCES = ("plain", "cliper", "sclip", "clearclip", "proxyclip", "cliptrase")
"""Sources of class names: `plain` has the benchmark's own, the others those of a paper's code."""

Names = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with its target.

    Attributes:
        id: unique in its benchmark, such as "2007_000033".
        image: path of the picture, or uint8 (H, W, 3) RGB: what `read_image` takes.
        load: reads the target; `target` calls it and checks the size.
    """

    id: str
    image: Path | npt.NDArray[np.uint8]
    load: Callable[[], Target]

    def target(self) -> Target:
        """The target labels, (H, W) uint16.

        0 = background (only if the benchmark has one), 1 to C = its classes, `VOID` = pixels that
        are left out of the score.

        Raises:
            WordmaskError: a mask that cannot be read, is coded in colours, holds an unknown value,
                or has another size than the picture.
        """
        target = self.load()
        if isinstance(self.image, Path):
            return reading.match_picture(target, self.image, self.id)
        return target


@dataclass(frozen=True)
class Listing:
    """The samples found below a root, and all problems, one line each."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()


class Samples(Sequence[Sample]):
    """The samples of an opened `benchmark`, in the order of its split."""

    def __init__(self, benchmark: Benchmark, samples: Iterable[Sample]) -> None:
        self.benchmark = benchmark
        self._samples = tuple(samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self.benchmark, self._samples[index])
        return self._samples[index]

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __repr__(self) -> str:
        return f"Samples({self.benchmark.name!r}, {len(self)} of {self.benchmark.expected} images)"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark with one set of classes.

    Attributes:
        name: its name in commands, such as "voc20".
        title: its name in tables.
        expected: images of the complete evaluation split; 0 if any number is accepted.
        classes: number of classes C, the background not counted.
        has_background: whether label 0 is scored as a class of its own.
        ignore: value in the mask files that is left out of the score; None if there is none.
        reduce_zero: whether value 0 of the mask files is left out, and class 1 has value 1.
        layout: the expected files below the root, in words.
        words: name of the lists of class names, see `wordmask.datasets.names`.
        note: a note for users; may be empty.
        size: (height, width) of every picture, if all have one size.
        needs_root: whether files are read at all.
    """

    name: str
    title: str
    expected: int
    classes: int
    has_background: bool = False
    ignore: int | None = 255
    reduce_zero: bool = False
    layout: str
    words: str
    note: str = ""
    size: tuple[int, int] | None = None
    needs_root: ClassVar[bool] = True

    @cached_property
    def names(self) -> Mapping[str, Names]:
        """Class names by source: one tuple of synonyms for each of the C classes."""
        found = {source: read_names(source, self.words) for source in SOURCES}
        return {source: names for source, names in found.items() if names}

    @cached_property
    def background_words(self) -> Mapping[str, tuple[str, ...]]:
        """Background words by source, ready for `Background.names`.

        A released list may hold a word twice (CLIPtrase: "bed") or a word that is also a class of
        the benchmark ("bed" of SCLIP and ProxyCLIP for COCO-Object; there the background takes the
        pixels of the class). Such words are left out here; `released_background_words` has them,
        and a protocol takes those with `**` in its background.
        """
        cleaned = {}
        for source, words in self.released_background_words.items():
            taken = {name.casefold() for names in self.names[source] for name in names}
            kept = dict.fromkeys(word for word in words if word.casefold() not in taken)
            cleaned[source] = tuple(kept)
        return cleaned

    @cached_property
    def released_background_words(self) -> Mapping[str, tuple[str, ...]]:
        """Background words by source exactly as the released code has them, repeats included."""
        found = {s: read_background(s, self.words, self.has_background) for s in self.names}
        return {source: words for source, words in found.items() if words}

    def at(self, root: Path) -> Benchmark:
        """The benchmark as completed by the files below a root; by default itself."""
        return self

    def find(self, root: Path) -> Listing:
        """Find the samples below a root without opening a mask.

        Raises:
            WordmaskError: nothing of this benchmark is there. If only some files have a problem,
                the others are listed, with the problem.
        """
        raise TypeError(f"{type(self).__name__} does not implement find")

    def open(self, root: str | os.PathLike[str] | None = None) -> Samples:
        """List the samples below a root; no mask is opened.

        Raises:
            WordmaskError: there is no such folder, nothing of this benchmark is in it, a listed
                picture or mask is missing, or there are more images than the split has.
        """
        path = self.check_root(root) if self.needs_root else Path()
        bench = self.at(path)
        listing = bench.find(path)
        problems = [*listing.problems, *bench.surplus(len(listing.samples))]
        if problems:
            more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
            raise WordmaskError(
                f"{self.name}: {problems[0]}{more}; see wordmask datasets check {self.name}"
            )
        return Samples(bench, listing.samples)

    def check_root(self, root: str | os.PathLike[str] | None) -> Path:
        """Return the root as a path, checked to be a folder."""
        if root is None or not str(root):
            raise WordmaskError(
                f"{self.name} needs the folder of its files: give --root DIR; expected below it: "
                f"{self.layout}"
            )
        path = Path(root)
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "does not exist"
            raise WordmaskError(f"{self.name}: the root {path} {what}; give the folder that holds "
                                f"{self.layout}")  # fmt: skip
        return path

    def surplus(self, count: int) -> list[str]:
        """The problem of having more images than the evaluation split; empty if there is none."""
        if not self.expected or count <= self.expected:
            return []
        return [
            f"{count:,} images, but the evaluation split has {self.expected:,}: this is another "
            "split, or several together"
        ]


def check_benchmark(given: Any) -> Benchmark:
    """A benchmark to register, from an instance or from a class with defaults for all fields.

    Raises:
        WordmaskError: anything else, or an invalid name.
    """
    if isinstance(given, type) and issubclass(given, Benchmark):
        make: Any = given
        try:
            given = make()
        except TypeError as error:
            raise WordmaskError(
                f"cannot make a data set of {make.__qualname__}: {error}; give an instance, or "
                "every field a default, below @dataclass(frozen=True, kw_only=True)"
            ) from None
    if not isinstance(given, Benchmark):
        raise WordmaskError(f"got {given!r} as a data set; give a Benchmark")
    check_name(f"the data set {type(given).__qualname__}", given.name)
    return given


BENCHMARKS: Registry[Benchmark] = Registry("data set", "wordmask.datasets", check_benchmark)
"""All benchmarks by name."""


def register(*benchmarks: Benchmark) -> None:
    """Register benchmarks by their names.

    Raises:
        WordmaskError: a name that is not a plain word, or that another benchmark has.
    """
    for one in benchmarks:
        BENCHMARKS.register(one)


def benchmark(given: str | Benchmark | type[Benchmark]) -> Benchmark:
    """Return a benchmark.

    Args:
        given: a name ("COCO-Object" is "coco_object"), `FILE.py:NAME`, a benchmark or a class of
            benchmarks, or `NAME=DIR`: your own name for a folder in the layout of `folder`.

    Raises:
        WordmaskError: there is none of this name; the nearest names are given.
    """
    if isinstance(given, Benchmark):
        return check_benchmark(given)
    if not isinstance(given, str):
        return BENCHMARKS.resolve(given)
    name, equals, place = given.partition("=")
    if equals:
        name = name.strip()
        check_name(f"the data set {given!r}", name)
        if name in BENCHMARKS:
            raise WordmaskError(f"got {given!r}, but {name} is another data set; use another name")
        title = f"{name}, a folder of your own"
        folder: Any = BENCHMARKS["folder"]
        return dataclasses.replace(folder, name=name, title=title, place=Path(place))
    if is_file(given):
        return BENCHMARKS.resolve(given)
    key = re.sub(r"[\s-]+", "_", given.strip().lower())
    if key not in BENCHMARKS:
        raise unknown("data set", given, BENCHMARKS)
    return BENCHMARKS[key]
