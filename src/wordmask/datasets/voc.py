"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015): VOC21 and VOC20, and training sets.

Pseudo-masks from image-level labels are measured on training sets: `voc_train`, the official
1,464, and `voc_train_aug`, with the masks of SBD (Hariharan et al., ICCV 2011) 10,582.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.reading import IndexMask, table


@dataclass(frozen=True, kw_only=True)
class Voc(Benchmark):
    """A split: photographs; palette PNGs of 0 background, 1 to 20, 255 outlines.

    Attributes:
        split: the name of its list: val (1,449 photographs), train, or train_aug.
    """

    title: str = "PASCAL VOC 2012 val"
    expected: int = 1449
    classes: int = 20
    layout: str = (
        "[VOCdevkit/][VOC2012/] JPEGImages/*.jpg, SegmentationClass/*.png, "
        "ImageSets/Segmentation/val.txt"
    )
    words: str = "voc"
    split: str = "val"

    def find(self, root: Path) -> Listing:
        """The samples that the list of the split names."""
        places = [f"{place}JPEGImages" for place in ("VOCdevkit/VOC2012/", "VOC2012/", "")]
        base = layout.locate(root, places, "VOC 2012 photographs").parent
        # The masks of SegmentationClassAug have the same values on val and train.
        folders = ["SegmentationClass", "SegmentationClassAug"]
        masks = layout.locate(base, folders[self.split == "train_aug" :], "VOC masks")
        lists = [base / f"ImageSets/Segmentation/{name}.txt" for name in SPLITS[self.split]]
        split = next((path for path in lists if path.is_file()), lists[0])
        return layout.pair(
            layout.some_files(base / "JPEGImages", (".jpg",)),
            layout.some_files(masks, (".png",)),
            partial(IndexMask, table=VOC20 if self.reduce_zero else VOC21),
            layout.read_split(split),
            split,
        )


SPLITS = {"val": ("val",), "train": ("train",), "train_aug": ("train_aug", "trainaug")}
VOC21 = table({value: value for value in range(21)}, void=(255,))
VOC20 = table({value: value for value in range(1, 21)}, void=(0, 255))

register(
    Voc(name="voc21", has_background=True),
    Voc(name="voc20", reduce_zero=True, note="Background pixels are left out of the score."),
    Voc(
        name="voc_train",
        title="PASCAL VOC 2012 train",
        expected=1464,
        has_background=True,
        split="train",
        layout=Voc.layout.replace("val.txt", "train.txt"),
        note="For pseudo-masks: --image-labels target.",
    ),
    Voc(
        name="voc_train_aug",
        title="PASCAL VOC 2012 train, augmented",
        expected=10582,
        has_background=True,
        split="train_aug",
        layout=(
            "[VOCdevkit/][VOC2012/] JPEGImages/*.jpg, SegmentationClassAug/*.png, "
            "ImageSets/Segmentation/train_aug.txt"
        ),
        note="With the masks of SBD. For pseudo-masks: --image-labels target.",
    ),
)
