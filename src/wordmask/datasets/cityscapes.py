"""Cityscapes (Cordts et al., CVPR 2016): 19 classes, and 27 for the unsupervised setting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.reading import IndexMask, table
from wordmask.errors import WordmaskError

# The ids of the 19 scored classes, in the order of their train ids.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_ALL = set(range(34))

CITY19 = table({number: label for label, number in enumerate(IDS, 1)}, void=_ALL - set(IDS))
# The unsupervised papers (IIC, PiCIE, STEGO) score all ids from 7 (road) to 33 (bicycle).
CITY27 = table({number: number - 6 for number in range(7, 34)}, void=range(7))
TRAIN_IDS = table({value: value + 1 for value in range(19)}, void=(255,))

_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True, kw_only=True)
class Cityscapes(Benchmark):
    """The 500 pictures of val, 2048 x 1024, with gtFine.

    Masks are *_gtFine_labelIds.png; if these are absent, *_gtFine_labelTrainIds.png are read for
    the 19 classes.
    """

    title: str = "Cityscapes val"
    expected: int = 500
    classes: int = 19
    ignore: int | None = None
    layout: str = (
        "[cityscapes/] leftImg8bit/val/CITY/*_leftImg8bit.png, "
        "gtFine/val/CITY/*_gtFine_labelIds.png"
    )
    words: str = "cityscapes"
    size: tuple[int, int] | None = (1024, 2048)

    def find(self, root: Path) -> Listing:
        """The pictures of all cities; ids are "frankfurt/frankfurt_000000_000294"."""
        places = [f"{base}leftImg8bit/val" for base in ("", "cityscapes/", "Cityscapes/")]
        folder = layout.locate(root, places, "Cityscapes pictures")
        base = folder.parent.parent
        annotation = layout.locate(base, ("gtFine/val",), "Cityscapes masks")
        masks = _by_city(annotation, "_gtFine_labelIds")
        meaning = CITY19 if self.classes == 19 else CITY27
        if not masks and self.classes == 19:
            masks, meaning = _by_city(annotation, "_gtFine_labelTrainIds"), TRAIN_IDS
        pictures = _by_city(folder, _SUFFIX)
        for found, where, wanted in (
            (pictures, folder, f"CITY/*{_SUFFIX}.png"),
            (masks, annotation, "CITY/*_gtFine_labelIds.png"),
        ):
            if not found:
                raise WordmaskError(layout.nothing_in(where, wanted))
        return layout.pair(pictures, masks, partial(IndexMask, table=meaning))


def _by_city(folder: Path, ending: str) -> dict[str, Path]:
    return {
        f"{city.name}/{name}": path
        for city in sorted(folder.iterdir())
        if city.is_dir()
        for name, path in layout.files(city, (".png",), ending).items()
    }


register(
    Cityscapes(name="cityscapes", note="The 19 classes of the official score; the rest is void."),
    Cityscapes(
        name="cityscapes27",
        title="Cityscapes val, 27 classes",
        classes=27,
        words="cityscapes27",
        note="All ids from 7 to 33, as unsupervised papers score them.",
    ),
)
