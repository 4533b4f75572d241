"""COCO-Stuff (Caesar et al., CVPR 2018): 171 classes, on val2017 (164k) and on the 10k test set.

Both number their labels by COCO's category ids, 1 to 182, of which 11 are never used. The pixel
maps of the 164k set (stuffthingmaps_trainval2017.zip) hold the id minus 1, and 255 for unlabelled
pixels; the MATLAB files of the 10k set hold the id, and 0 for unlabelled pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.matlab import MatlabMask
from wordmask.datasets.reading import IndexMask, Table, table
from wordmask.errors import WordmaskError

UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
IDS = tuple(number for number in range(1, 183) if number not in UNUSED_IDS)
"""The 171 category ids in the order of the classes: 80 things, then 91 kinds of stuff."""
THINGS = 80

STUFF = table({number - 1: label for label, number in enumerate(IDS, 1)}, void=(255,))
STUFF_10K = table({number: label for label, number in enumerate(IDS, 1)}, void=(0,))

_ROOTS = ("", "coco/", "COCO/", "coco_stuff164k/")
_PICTURES = tuple(f"{base}{place}" for base in _ROOTS for place in ("images/val2017", "val2017"))
MAPS = tuple(
    f"{base}{place}"
    for base in _ROOTS
    for place in (
        "stuffthingmaps/val2017",
        "annotations/val2017",
        "stuffthingmaps_trainval2017/val2017",
        "val2017",
    )
)
HINT = "these may be maps that were converted already"


def find_pictures(root: Path) -> dict[str, Path]:
    """The photographs of val2017 by id."""
    return layout.some_files(layout.locate(root, _PICTURES, "COCO val2017 photographs"), (".jpg",))


def find_maps(root: Path) -> dict[str, Path]:
    """The pixel maps of val2017 by id; files that converters put next to them are left out.

    Raises:
        WordmaskError: there is no folder of them, or it is empty.
    """
    folders = [root / place for place in MAPS if (root / place).is_dir()]
    for folder in folders:
        maps = layout.files(folder, (".png",))
        maps = {name: path for name, path in maps.items() if name.isdigit()}
        if maps:
            return maps
    folder = layout.locate(root, MAPS, "COCO-Stuff pixel maps of val2017 (stuffthingmaps)")
    raise WordmaskError(layout.nothing_in(folder, "NUMBER.png"))


@dataclass(frozen=True, kw_only=True)
class CocoStuff(Benchmark):
    """val2017 with the pixel maps of COCO-Stuff, and a table from their values to classes."""

    title: str = "COCO-Stuff 164k val2017"
    expected: int = 5000
    classes: int = 171
    layout: str = (
        "[coco/] images/val2017/*.jpg or val2017/*.jpg, and stuffthingmaps/val2017/*.png "
        "or annotations/val2017/*.png"
    )
    words: str = "coco_stuff"
    values: ClassVar[Table] = STUFF

    def find(self, root: Path) -> Listing:
        """All photographs of val2017 and their maps."""
        load = partial(IndexMask, table=self.values, hint=HINT)
        return layout.pair(find_pictures(root), find_maps(root), load)


@dataclass(frozen=True, kw_only=True)
class CocoStuff10k(Benchmark):
    """The test set of cocostuff-10k-v1.1: 1,000 photographs with MATLAB files (needs scipy)."""

    title: str = "COCO-Stuff 10k test"
    expected: int = 1000
    classes: int = 171
    ignore: int | None = 0
    reduce_zero: bool = True
    layout: str = "[cocostuff-10k-v1.1/] images/*.jpg, annotations/*.mat, imageLists/test.txt"
    words: str = "coco_stuff"

    def find(self, root: Path) -> Listing:
        """The samples that test.txt lists."""
        places = [f"{base}imageLists" for base in ("", "cocostuff-10k-v1.1/", "coco_stuff10k/")]
        split = layout.locate(root, places, "list of COCO-Stuff 10k") / "test.txt"
        base = split.parent.parent
        return layout.pair(
            layout.some_files(layout.locate(base, ("images",), "photographs"), (".jpg",)),
            layout.some_files(layout.locate(base, ("annotations",), "annotation"), (".mat",)),
            partial(MatlabMask, variable="S", table=STUFF_10K),
            layout.read_split(split),
            split,
        )


register(CocoStuff(name="coco_stuff"), CocoStuff10k(name="coco_stuff10k"))
