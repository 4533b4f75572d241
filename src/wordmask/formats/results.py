"""Results on disk, one picture after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wordmask.errors import WordmaskError
from wordmask.files import shown
from wordmask.formats.base import Item
from wordmask.images import read_image
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
                image = np.asarray(read_image(picture))
            result = Segmentation(read_labels(file), self.names, image=image)
            text = os.fsencode(name).decode("utf-8", "replace").replace(os.sep, "/")
            yield Item(text, picture, result, self.words, kind)


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
        text = (folder / SETTINGS).read_bytes().decode(errors="surrogatepass")
        settings = json.loads(text)
        settings["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise WordmaskError(
            f"{shown(folder)} holds no results; give the --out folder of wordmask segment"
        ) from None
    results = results_of(folder, Journal(folder, settings), images)
    if next(iter(results.pictures), None) is None:
        raise WordmaskError(f"{shown(folder)} holds no finished picture")
    return results


def results_of(folder: Path, journal: Journal, images: bool = False) -> Results:
    """The results that a journal lists, by name."""
    return Results(folder, journal.settings["classes"], Done(journal), images)


@dataclass(frozen=True)
class Done:
    """Name and source of each picture that a journal says is done, by name."""

    journal: Journal

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name in sorted(self.journal.keys()):
            entry = self.journal.read(name)
            if "error" not in entry:
                yield name, str(entry["picture"])
