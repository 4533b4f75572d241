"""CamVid (Brostow et al., 2009) in the 11 classes of SegNet (Badrinarayanan et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.reading import IndexMask, table

CAMVID = table({value: value + 1 for value in range(11)}, void=(11,))


@dataclass(frozen=True, kw_only=True)
class CamVid(Benchmark):
    """One split: frames of 480 x 360, masks of 0 to 10, and 11 for unlabelled pixels."""

    classes: int = 11
    ignore: int | None = 11
    words: str = "camvid"
    size: tuple[int, int] | None = (360, 480)
    split: str

    def find(self, root: Path) -> Listing:
        """All frames of the split and their masks."""
        # Located by the masks: other benchmarks have a folder "val" too.
        places = [f"{base}{self.split}annot" for base in ("", "CamVid/", "camvid/")]
        masks = layout.locate(root, places, "CamVid masks")
        frames = layout.locate(masks.parent, (self.split,), "CamVid frames")
        return layout.pair(
            layout.some_files(frames, (".png",)),
            layout.some_files(masks, (".png",)),
            partial(IndexMask, table=CAMVID),
        )


register(
    *(
        CamVid(
            name=name,
            title=f"CamVid {split}",
            expected=images,
            split=split,
            layout=f"[CamVid/] {split}/*.png, {split}annot/*.png",
        )
        for name, split, images in (("camvid", "val", 101), ("camvid_test", "test", 233))
    )
)
