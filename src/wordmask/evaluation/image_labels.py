"""Image-level labels of an evaluation: the classes that are known to be in each picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordmask.batch import read_image_labels
from wordmask.datasets import VOID, Benchmark, Sample, Samples
from wordmask.errors import WordmaskError, unknown


@dataclass(frozen=True)
class ImageLabels:
    """Where image-level labels come from.

    Attributes:
        source: "none" are known, those in the "target", or the path of a CSV file.
        rows: of a file: the class numbers (from 0) of each picture, by its id.
    """

    source: str
    rows: Mapping[str, tuple[int, ...]]

    def of(self, sample: Sample, target: np.ndarray) -> tuple[int, ...] | None:
        """The classes in a picture with a target (H, W), numbers from 0; None: nothing is known."""
        if self.source == "none":
            return None
        if self.source != "target":
            return self.rows[sample.id]
        return tuple(int(label) - 1 for label in np.unique(target) if 0 < label < VOID)


def find_image_labels(source: str, samples: Samples) -> ImageLabels:
    """Read the image-level labels of all samples, see `ImageLabels`.

    A row of a file has the picture's id or the name of its file, then names of classes, of any
    source of the data set and without regard to case. Rows of other pictures are ignored.

    Raises:
        WordmaskError: a file that cannot be read, a picture without a row, a name that no class or
            more than one class has.
    """
    if source in ("none", "target"):
        return ImageLabels(source, {})
    table = read_image_labels(Path(source))
    numbers = _class_numbers(samples.benchmark)
    rows = {}
    for sample in samples:
        place = sample.image if isinstance(sample.image, Path) else Path(sample.id)
        key = next((x for x in (sample.id, place.name, place.stem) if x in table), None)
        if key is None:
            raise WordmaskError(
                f"{source} has no row for {sample.id}; a row begins with a picture's id, or give "
                "image_labels=target for those in the targets"
            )
        found = set()
        for label in table[key]:
            if len(numbers.get(label.casefold(), ())) != 1:
                names = [names[0] for names in samples.benchmark.names["plain"]]
                raise unknown(f"label of {key}", label, names)
            found |= numbers[label.casefold()]
        rows[sample.id] = tuple(sorted(found))
    return ImageLabels(source, rows)


def _class_numbers(bench: Benchmark) -> dict[str, set[int]]:
    """The classes (from 0) of every name, whatever its source."""
    numbers: dict[str, set[int]] = {}
    for names in bench.names.values():
        for number, synonyms in enumerate(names):
            for name in synonyms:
                numbers.setdefault(name.casefold(), set()).add(number)
    return numbers
