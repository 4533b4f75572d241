"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015): VOC21 and VOC20."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.reading import IndexMask, table


@dataclass(frozen=True, kw_only=True)
class Voc(Benchmark):
    """The val split: 1,449 photographs; palette PNGs of 0 background, 1 to 20, 255 outlines."""

    title: str = "PASCAL VOC 2012 val"
    expected: int = 1449
    classes: int = 20
    layout: str = (
        "[VOCdevkit/][VOC2012/] JPEGImages/*.jpg, SegmentationClass/*.png, "
        "ImageSets/Segmentation/val.txt"
    )
    words: str = "voc"

    def find(self, root: Path) -> Listing:
        """The samples that val.txt lists."""
        places = [f"{place}JPEGImages" for place in ("VOCdevkit/VOC2012/", "VOC2012/", "")]
        base = layout.locate(root, places, "VOC 2012 photographs").parent
        # The masks of SegmentationClassAug have the same values on val.
        masks = layout.locate(base, ("SegmentationClass", "SegmentationClassAug"), "VOC masks")
        split = base / "ImageSets/Segmentation/val.txt"
        return layout.pair(
            layout.some_files(base / "JPEGImages", (".jpg",)),
            layout.some_files(masks, (".png",)),
            partial(IndexMask, table=VOC20 if self.reduce_zero else VOC21),
            layout.read_split(split),
            split,
        )


VOC21 = table({value: value for value in range(21)}, void=(255,))
VOC20 = table({value: value for value in range(1, 21)}, void=(0, 255))

register(
    Voc(name="voc21", has_background=True),
    Voc(name="voc20", reduce_zero=True, note="Background pixels are left out of the score."),
)
