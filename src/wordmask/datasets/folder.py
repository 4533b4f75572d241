"""Your own benchmark: pictures with index masks and a list of names.

    images/NAME.jpg     masks/NAME.png     names.txt

Line k of names.txt (the first is line 0) names value k of the masks: one class per line, synonyms
after tabs. If the first name is "background", value 0 is the background. 255 and, in 16-bit
masks, 65535 are left out of the score.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, Names, register
from wordmask.datasets.reading import VOID, IndexMask, table
from wordmask.errors import WordmaskError
from wordmask.images import IMAGE_SUFFIXES

_MASKS = ("masks", "labels", "annotations")
_NAMES = ("names.txt", "names.json", "classes.txt")


@dataclass(frozen=True, kw_only=True)
class Folder(Benchmark):
    """Pictures, masks and names in one folder; its classes are known once it is opened.

    Attributes:
        given: class names of names.txt, the background left out.
        place: the folder; None takes the root that is given when it is opened.
    """

    name: str = "folder"
    title: str = "a folder of your own"
    expected: int = 0
    classes: int = 0
    layout: str = "images/*, masks/*.png, names.txt (line k, from 0, names value k of the masks)"
    words: str = ""
    note: str = "A first name 'background' makes value 0 the background."
    given: Names = ()
    place: Path | None = None

    @cached_property
    def names(self) -> Mapping[str, Names]:
        """The names of names.txt, as the source `plain`."""
        return {"plain": self.given} if self.given else {}

    def check_root(self, root: str | os.PathLike[str] | None) -> Path:
        """The folder of this data set, `place` if it is given, else the root."""
        return super().check_root(self.place or root)

    def at(self, root: Path) -> Folder:
        """The benchmark with the classes of names.txt below a root."""
        from wordmask.vocabulary import Vocabulary

        paths = [root / name for name in _NAMES]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise WordmaskError(f"no list of names; tried {', '.join(map(str, paths))}")
        names = Vocabulary.from_file(path).classes
        has_background = names[0][0].casefold() == "background"
        given = names[1:] if has_background else names
        if not given:
            raise WordmaskError(f"{path} names no class besides the background")
        return dataclasses.replace(
            self, given=given, classes=len(given), has_background=has_background
        )

    def find(self, root: Path) -> Listing:
        """All pictures and their masks, by their names without suffix."""
        bench = self.at(root)
        pictures = layout.locate(root, ("images", "pictures"), "pictures")
        masks = layout.locate(root, _MASKS, "masks")
        # 16 bits, so that one table serves both kinds of masks; 255 is void unless it is a class.
        first = 0 if bench.has_background else 1  # label of value 0
        labels = {label - first: label for label in range(first, bench.classes + 1)}
        void = {255, VOID} - set(labels)
        return layout.pair(
            layout.some_files(pictures, sorted(IMAGE_SUFFIXES)),
            layout.some_files(masks, (".png", ".tif", ".tiff")),
            partial(IndexMask, table=table(labels, void, 65536)),
        )


register(Folder())
