"""COCO-Stuff in 27 coarse classes: the unsupervised setting (IIC, ICCV 2019; PiCIE; STEGO).

The coarse classes are COCO's 12 groups of things, then COCO-Stuff's 15 groups of stuff.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wordmask.datasets import layout
from wordmask.datasets.base import Listing, register
from wordmask.datasets.coco_stuff import IDS, CocoStuff
from wordmask.datasets.names import read_names
from wordmask.datasets.reading import Table, table

CURATED = "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"

# fmt: off
# Groups of things are runs of COCO's category ids, in the order of the coarse classes.
THING_GROUPS = (
    ("electronic", 72, 77), ("appliance", 78, 82), ("food", 52, 61), ("furniture", 62, 70),
    ("indoor", 84, 90), ("kitchen", 44, 51), ("accessory", 27, 33), ("animal", 16, 25),
    ("outdoor", 10, 15), ("person", 1, 1), ("sports", 34, 43), ("vehicle", 2, 9),
)
STUFF_GROUPS = {
    "ceiling": "ceiling-other, ceiling-tile",
    "floor": "carpet, floor-marble, floor-other, floor-stone, floor-tile, floor-wood",
    "food": "food-other, fruit, salad, vegetable",
    "furniture": "cabinet, counter, cupboard, desk-stuff, door-stuff, furniture-other, light, "
                 "mirror-stuff, shelf, stairs, table",
    "raw material": "cardboard, metal, paper, plastic",
    "textile": "banner, blanket, cloth, clothes, curtain, mat, napkin, pillow, rug, "
               "textile-other, towel",
    "wall": "wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood",
    "window": "window-blind, window-other",
    "building": "bridge, building-other, house, roof, skyscraper, tent",
    "ground": "dirt, gravel, ground-other, mud, pavement, platform, playingfield, railroad, road, "
              "sand, snow",
    "plant": "branch, bush, flower, grass, leaves, moss, plant-other, straw, tree",
    "sky": "clouds, sky-other",
    "solid": "hill, mountain, rock, solid-other, stone, wood",
    "structural": "cage, fence, net, railing, structural-other",
    "water": "fog, river, sea, water-other, waterdrops",
}
# fmt: on


def coarse_classes() -> dict[int, int]:
    """The coarse class, 1 to 27, of each of the 171 category ids."""
    things = {
        number: coarse
        for coarse, (_, first, last) in enumerate(THING_GROUPS, 1)
        for number in range(first, last + 1)
        if number in IDS
    }
    names = [name for (name,) in read_names("plain", "coco_stuff")]
    stuff = {
        IDS[names.index(member)]: coarse
        for coarse, members in enumerate(STUFF_GROUPS.values(), len(THING_GROUPS) + 1)
        for member in members.split(", ")
    }
    return things | stuff


@dataclass(frozen=True, kw_only=True)
class Coco27(CocoStuff):
    """val2017 with the coarse classes.

    The papers of the unsupervised setting score a list of 2,175 pictures of val2017. If that list
    is next to the data (`CURATED`), it is used.
    """

    title: str = "COCO-Stuff val2017, 27 coarse"
    classes: int = 27
    words: str = "coco27"
    note: str = f"Papers score the 2,175 pictures of {CURATED}, which is used if it exists."
    values: ClassVar[Table] = table(
        {number - 1: coarse for number, coarse in coarse_classes().items()}, void=(255,)
    )

    def at(self, root: Path) -> Coco27:
        """The same, with fewer images expected if there is a curated list."""
        return self if _curated(root) is None else dataclasses.replace(self, expected=2175)

    def find(self, root: Path) -> Listing:
        """All of val2017, or the pictures of the curated list."""
        found = super().find(root)
        split = _curated(root)
        if split is None:
            return found
        samples = {sample.id: sample for sample in found.samples}
        ids = [Path(line).stem for line in layout.read_split(split)]
        absent = [one for one in ids if one not in samples]
        problems = layout.missing("picture and mask", absent, len(ids), split)
        return Listing(tuple(samples[one] for one in ids if one in samples), tuple(problems))


def _curated(root: Path) -> Path | None:
    lists = [root / base / CURATED for base in ("", "coco", "COCO", "cocostuff")]
    return next((path for path in lists if path.is_file()), None)


register(Coco27(name="coco27"))
