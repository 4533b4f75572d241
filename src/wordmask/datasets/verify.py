"""Verifying a copy of a benchmark: every picture and mask is read, every problem reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wordmask.datasets.base import Benchmark, Sample
from wordmask.datasets.reading import VOID
from wordmask.errors import WordmaskError


@dataclass(frozen=True)
class Report:
    """The result of a verification.

    Attributes:
        benchmark: the benchmark, with its classes.
        images: number of pictures with a mask.
        problems: one line each; a copy without any is correct.
        notes: one line each; facts that are not problems.
    """

    benchmark: Benchmark
    images: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify(
    benchmark: Benchmark,
    root: str | os.PathLike[str] | None = None,
    complete: bool = False,
    report: Callable[[int, int], object] = lambda done, of: None,
) -> Report:
    """Verify a copy: counts, sizes, values out of range, missing pairs, damaged files.

    Args:
        benchmark: the benchmark.
        root: the folder of its files.
        complete: whether having fewer images than the split is a problem instead of a note.
        report: called after each picture with the number done and the total.

    Raises:
        WordmaskError: the root is not a folder.
    """
    path = benchmark.check_root(root) if benchmark.needs_root else Path()
    problems: list[str] = []
    try:
        benchmark = benchmark.at(path)
        listing = benchmark.find(path)
    except WordmaskError as error:
        return Report(benchmark, 0, (str(error),), ())
    problems += [*listing.problems, *benchmark.surplus(len(listing.samples))]
    counts = np.zeros(VOID + 1, np.int64)
    sizes = []
    empty = 0
    for done, sample in enumerate(listing.samples, 1):
        try:
            target = sample.target()
            _decode(sample)
        except WordmaskError as error:
            problems.append(str(error))
        else:
            found = np.bincount(target.ravel(), minlength=VOID + 1)
            empty += int(found[VOID] == target.size)
            counts += found
            sizes.append(target.shape)
            if benchmark.size and target.shape != benchmark.size:
                height, width = benchmark.size
                problems.append(
                    f"{sample.id} is {target.shape[1]} x {target.shape[0]} pixels; all pictures of "
                    f"{benchmark.name} are {width} x {height}"
                )
        report(done, len(listing.samples))
    notes = _notes(benchmark, counts, sizes, empty)
    if len(listing.samples) < benchmark.expected:
        few = f"{len(listing.samples):,} of {benchmark.expected:,} images"
        (problems if complete else notes).insert(0, few)
    return Report(benchmark, len(listing.samples), tuple(problems), tuple(notes))


def _decode(sample: Sample) -> None:
    """Decode a picture to find truncated files; JPEGs at an eighth of their size."""
    if not isinstance(sample.image, Path):
        return
    try:
        with Image.open(sample.image) as image:
            image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()
    except Exception as error:  # decoders raise nearly every kind of error on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WordmaskError(f"the picture {sample.image} is damaged: {reason}") from None


def _notes(
    benchmark: Benchmark, counts: np.ndarray, sizes: list[tuple[int, ...]], empty: int
) -> list[str]:
    notes = []
    if sizes:
        height, width = ((min(sides), max(sides)) for sides in zip(*sizes, strict=True))
        spans = " x ".join(f"{a} to {b}" if a < b else str(a) for a, b in (width, height))
        notes.append(f"pictures of {spans} pixels, {counts[VOID] / counts.sum():.1%} of them void")
        occurs = counts[1 : benchmark.classes + 1] > 0
        names = [names[0] for names in benchmark.names["plain"]]
        absent = [name for name, there in zip(names, occurs, strict=True) if not there]
        note = f"{occurs.sum()} of {benchmark.classes} classes have pixels"
        if absent:
            note += f"; absent: {', '.join(absent[:8])}" + ", ..." * (len(absent) > 8)
        notes.append(note)
    if empty:
        notes.append(f"{empty} mask{'s are' if empty > 1 else ' is'} entirely void")
    return notes
