"""ADE20K (Zhou et al., CVPR 2017): 150 classes, and 847 of the full annotation."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wordmask.datasets import layout
from wordmask.datasets.base import Benchmark, Listing, register
from wordmask.datasets.names import read_names
from wordmask.datasets.reading import VOID, IndexMask, Table, Target, read_colours, table
from wordmask.errors import WordmaskError

ADE150 = table({value: value for value in range(1, 151)}, void=(0,))
# The maps that detectron2's projects convert the full annotation to: 0 to 846, 65535 outside.
CONVERTED_847 = table({value: value + 1 for value in range(847)}, void=(VOID,), size=65536)


@dataclass(frozen=True, kw_only=True)
class Ade150(Benchmark):
    """The 2,000 pictures of validation in ADEChallengeData2016."""

    title: str = "ADE20K validation, 150"
    expected: int = 2000
    classes: int = 150
    ignore: int | None = 0
    reduce_zero: bool = True
    layout: str = "[ADEChallengeData2016/] images/validation/*.jpg, annotations/validation/*.png"
    words: str = "ade20k"

    def find(self, root: Path) -> Listing:
        """All pictures of validation and their masks."""
        bases = ("", "ADEChallengeData2016/", "ade/ADEChallengeData2016/")
        places = [f"{base}images/validation" for base in bases]
        pictures = layout.locate(root, places, "ADE20K photographs")
        base = pictures.parent.parent
        masks = layout.locate(base, ("annotations/validation",), "ADE20K masks")
        hint = (
            "255 for nothing is how detectron2 converts these, one less all over: get the originals"
        )
        return layout.pair(
            layout.some_files(pictures, (".jpg",)),
            layout.some_files(masks, (".png",)),
            partial(IndexMask, table=ADE150, hint=hint),
        )


@dataclass(frozen=True, kw_only=True)
class Ade847(Benchmark):
    """The 2,000 pictures of validation in ADE20K_2021_17_01, the full annotation.

    A mask is coded in colours: the number of an object is R // 10 * 256 + G, and index_ade20k.pkl
    next to the pictures names the numbers. The 847 classes are found there by name; all others are
    void. If images/ADE is absent, the maps converted by detectron2's projects
    (annotations_detectron2/validation/*.tif) are read.
    """

    title: str = "ADE20K validation, 847"
    expected: int = 2000
    classes: int = 847
    ignore: int | None = 0
    reduce_zero: bool = True
    layout: str = (
        "[ADE20K_2021_17_01/] index_ade20k.pkl, images/ADE/validation/*/*/ADE_val_*.jpg and "
        "*_seg.png; or images_detectron2/validation/*.jpg, annotations_detectron2/validation/*.tif"
    )
    words: str = "ade847"

    def find(self, root: Path) -> Listing:
        """All pictures of validation and their masks."""
        bases = ("", "ADE20K_2021_17_01/", "ade/ADE20K_2021_17_01/")
        places = ("images/ADE/validation", "images_detectron2/validation")
        found = layout.locate(
            root, [f"{base}{place}" for place in places for base in bases], "full ADE20K"
        )
        if found.parent.name == "images_detectron2":
            base = found.parent.parent
            masks = layout.locate(base, ("annotations_detectron2/validation",), "ADE20K masks")
            return layout.pair(
                layout.some_files(found, (".jpg",)),
                layout.some_files(masks, (".tif", ".tiff")),
                partial(IndexMask, table=CONVERTED_847),
            )
        index = found.parents[2] / "index_ade20k.pkl"
        names = [name for (name,) in read_names("cliptrase", self.words)]
        meaning = full_table(read_object_names(index), names, index)
        pictures: dict[str, Path] = {}
        masks_by_id: dict[str, Path] = {}
        for folder in sorted(path for path in found.glob("*/*") if path.is_dir()):
            pictures |= layout.files(folder, (".jpg",))
            masks_by_id |= layout.files(folder, (".png",), "_seg")
        if not pictures:
            raise WordmaskError(layout.nothing_in(found, "*/*/ADE_val_*.jpg"))
        return layout.pair(pictures, masks_by_id, partial(ColourMask, table=meaning))


@dataclass(frozen=True, eq=False)
class ColourMask:
    """A mask of the full annotation, and the labels of its numbers; call it to read the labels."""

    path: Path
    table: Table

    def __call__(self) -> Target:
        """The labels, (H, W) uint16.

        Raises:
            WordmaskError: a mask that cannot be read, or a number without an object.
        """
        numbers = object_numbers(read_colours(self.path))
        if numbers.max() >= len(self.table):
            raise WordmaskError(
                f"the mask {self.path} has the object {int(numbers.max())}, the index has "
                f"{len(self.table) - 1}; it belongs to another release"
            )
        return self.table[numbers]


def object_numbers(colours: np.ndarray) -> np.ndarray:
    """Numbers of objects, (H, W) uint16, from colours (H, W, 3) uint8; 0 is nothing."""
    return colours[..., 0].astype(np.uint16) // 10 * 256 + colours[..., 1]


def full_table(objects: Sequence[str], classes: Sequence[str], shown: object) -> Table:
    """The table from object numbers (1 for the first of `objects`) to the classes of that name.

    Raises:
        WordmaskError: a class without an object of its name; `shown` is the file of the objects.
    """
    labels = {_plain(name): label for label, name in enumerate(classes, 1)}
    names = [_plain(name) for name in objects]
    unknown = [name for name in classes if _plain(name) not in set(names)]
    if unknown:
        raise WordmaskError(
            f"{shown} has no object named {unknown[0]!r}, nor {len(unknown) - 1} others of the "
            f"{len(classes)} classes; it is the index of another release"
        )
    known = {number: labels[name] for number, name in enumerate(names, 1) if name in labels}
    others = [number for number in range(len(names) + 1) if number not in known]
    return table(known, void=others, size=len(names) + 1)


def _plain(name: str) -> str:
    """A name in lower case without blanks and punctuation ("lord's" and "lords" are the same)."""
    return re.sub(r"[^a-z0-9,]+", "", name.casefold())


def read_object_names(path: Path) -> list[str]:
    """The names of all objects, in the order of their numbers, from index_ade20k.pkl.

    Loading a pickle can run any code; here only plain values and numpy arrays are created.

    Raises:
        WordmaskError: the file is missing, or is not that index.
    """
    try:
        with open(path, "rb") as file:
            content = _PlainUnpickler(file).load()
        return [str(name) for name in content["objectnames"]]
    except FileNotFoundError:
        raise WordmaskError(f"there is no {path}, which names the objects of ADE20K") from None
    except Exception as error:  # a damaged pickle raises nearly every kind of error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WordmaskError(f"{path} is not the index of ADE20K: {reason}") from None


class _PlainUnpickler(pickle.Unpickler):
    """Loads containers, numbers, strings and numpy arrays; replaces anything else by `_Idle`."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        return super().find_class(module, name) if (module, name) in _PLAIN else _Idle


_PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),  # bytes in old pickles
}


class _Idle:
    """Placeholder for an object that is not loaded."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


register(
    Ade150(name="ade150"),
    Ade847(name="ade847", note="Objects beyond the 847 classes are void."),
)
