"""Results on disk, one picture after the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wordmask.errors import WordmaskError
from wordmask.files import shown
from wordmask.formats.base import Item
from wordmask.journal import SETTINGS, Journal
from wordmask.segmentation import Segmentation

LABELS = ("labels", "labels16")  # the formats that results are read from, the first that exists


@dataclass(frozen=True)
class Results:
    """The pictures of a folder of results, read from their label files when they are asked for.

    Attributes:
        out: the folder.
        words: the classes, each with its synonyms.
        pictures: name and source of each picture, as in `Item`; can be gone through again.
        images: read the pictures too, for formats that draw on them.
    """

    out: Path
    words: Sequence[Sequence[str]]
    pictures: Iterable[tuple[str, str]]
    images: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, each by its first name."""
        return tuple(one[0] for one in self.words)

    def __iter__(self) -> Iterator[Item]:
        for name, picture in self.pictures:
            for kind in LABELS:
                file = self.out / f"{name}_{kind}.png"
                if file.is_file():
                    break
            else:
                raise WordmaskError(
                    f"{shown(self.out / name)}_labels.png is missing, and other formats are made "
                    "from it; run wordmask segment with the format labels"
                )
            image = None
            if self.images:
                from wordmask.images import read_image  # loads torch

                image = np.asarray(read_image(picture))
            result = Segmentation(read_labels(file), self.names, image=image)
            yield Item(name, picture, result, self.words, kind)


def read_labels(file: Path) -> np.ndarray:
    """Read a label picture as (H, W) uint8 or uint16.

    Raises:
        WordmaskError: it cannot be read or has colours.
    """
    try:
        with Image.open(file) as image:
            labels = np.array(image)
    except (OSError, ValueError) as error:
        raise WordmaskError(f"cannot read the labels in {shown(file)}: {error}") from None
    if labels.ndim != 2:
        raise WordmaskError(f"{shown(file)} has colours; a label picture has one value per pixel")
    return labels.astype(np.uint16) if labels.dtype.itemsize > 1 else labels.astype(np.uint8)


def read_results(folder: Path, images: bool = False) -> Results:
    """Find the results of `wordmask segment` in a folder.

    Raises:
        WordmaskError: it holds none.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        words = settings["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise WordmaskError(
            f"{shown(folder)} holds no results; give the --out folder of wordmask segment"
        ) from None
    journal = Journal(folder, settings)
    pairs = [(name, str(entry["picture"])) for name, entry in journal.items()]
    if not pairs:
        raise WordmaskError(f"{shown(folder)} holds no finished picture")
    return Results(folder, words, sorted(pairs), images)
