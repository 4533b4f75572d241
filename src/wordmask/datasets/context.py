"""PASCAL Context (Mottaghi et al., CVPR 2014): 60, 59 and 459 classes.

The original annotation has one MATLAB file per picture. Its `LabelMap` holds the numbers 1 to 459
of the categories in alphabetical order (the file labels.txt next to it), and 0 for unlabelled
pixels. The 59 classes are those of the authors' list, in alphabetical order as in mmsegmentation;
`NUMBERS_59` are their numbers among the 459.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.matlab import MatlabMask
from wordmask.datasets.reading import IndexMask, table

# fmt: off
NUMBERS_59 = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on
_IN_59 = {number: label for label, number in enumerate(NUMBERS_59, 1)}
_OTHERS = set(range(460)) - set(NUMBERS_59)

# From the numbers of a LabelMap.
CONTEXT60 = table(_IN_59 | dict.fromkeys(_OTHERS, 0), size=460)
CONTEXT59 = table(_IN_59, void=_OTHERS, size=460)
CONTEXT459 = table({number: number for number in range(1, 460)}, void=(0,), size=460)
# From the PNGs of mmsegmentation's converter: 0 background, 1 to 59.
PNG60 = table({value: value for value in range(60)}, void=(255,))
PNG59 = table({value: value for value in range(1, 60)}, void=(0, 255))

_BASES = ("VOCdevkit/VOC2010/", "VOC2010/", "")
_MATLAB = ("trainval", "context/trainval", "Context/trainval", "pascal-context/trainval")


@dataclass(frozen=True, kw_only=True)
class Context(Benchmark):
    """The 5,104 photographs of the val split that all papers of the field report on.

    The masks are the MATLAB files (needs scipy) or, if these are absent and for 59 and 60 classes,
    the PNGs of mmsegmentation's converter.
    """

    title: str = "PASCAL Context val"
    expected: int = 5104
    classes: int = 59
    ignore: int | None = None
    layout: str = (
        "[VOCdevkit/][VOC2010/] JPEGImages/*.jpg, and trainval/*.mat (the official annotation) "
        "or SegmentationClassContext/*.png"
    )
    words: str = "context59"

    def find(self, root: Path) -> Listing:
        """The samples of the split of 5,104 that are there."""
        places = [f"{base}JPEGImages" for base in (*_BASES, "VOCdevkit/VOC2012/", "VOC2012/")]
        photographs = layout.locate(root, places, "VOC 2010 photographs")
        base = photographs.parent
        pngs = base / "SegmentationClassContext"
        load: Callable[[Path], layout.Load]
        roots = (root, root.parent) if root == base else (root,)
        matlab = [one / place for one in (base, *roots) for place in _MATLAB]
        if self.classes == 59 and pngs.is_dir() and not any(one.is_dir() for one in matlab):
            masks = layout.some_files(pngs, (".png",))
            load = partial(IndexMask, table=PNG60 if self.has_background else PNG59)
        else:
            folder = layout.locate(base, _MATLAB, "annotation of PASCAL Context", *roots)
            masks = layout.some_files(folder, (".mat",))
            tables = {459: CONTEXT459, 59: CONTEXT60 if self.has_background else CONTEXT59}
            load = partial(MatlabMask, variable="LabelMap", table=tables[self.classes])
        pictures = layout.some_files(photographs, (".jpg",))
        split = base / "ImageSets/SegmentationContext/val.txt"
        if split.is_file():
            return layout.pair(pictures, masks, load, layout.read_split(split), split)
        # There is no split file: ids without picture and mask are skipped, excerpts are accepted.
        val = [one for one in val_ids() if one in pictures or one in masks]
        return layout.pair(pictures, masks, load, val)


@cache
def val_ids() -> tuple[str, ...]:
    """The 5,104 ids of the val split, in order; kept as one line a year."""
    text = (resources.files(__package__) / "names/context_val.txt").read_text(encoding="utf-8")
    found = []
    for line in text.splitlines():
        if not line.startswith("#"):
            year, *numbers = line.split()
            found += [f"{year}_{int(number):06d}" for number in numbers]
    return tuple(found)


register(
    Context(name="context60", has_background=True, note="Background: all but the 59 classes."),
    Context(name="context59", reduce_zero=True, ignore=0),
    Context(
        name="context459",
        classes=459,
        reduce_zero=True,
        ignore=0,
        words="context459",
        layout="[VOCdevkit/][VOC2010/] JPEGImages/*.jpg, trainval/*.mat",
        note="The class 'unknown' is one of the 459, as in the official list.",
    ),
)
