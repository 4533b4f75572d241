"""PASCAL VOC's folder of class masks, and CVAT's zip file of the same."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from wordmask.colours import palette
from wordmask.files import make_folder, write_atomically
from wordmask.formats.base import FolderFormat, Item
from wordmask.formats.folders import link_picture, whole_folder
from wordmask.formats.pictures import png

LARGEST_INDEX = 254  # 255 is VOC's "void"


def colours(count: int) -> np.ndarray:
    """A colour for the ground and each class, (count + 1, 3) uint8, no two alike.

    Those of the overlay while they differ; beyond some 500 classes VOC's own, which spread the bits
    of the label over the channels.
    """
    own = palette(count)
    if len(np.unique(own, axis=0)) == len(own):
        return own
    labels = np.arange(count + 1)
    bits = [[(labels >> (3 * k + c) & 1) << (7 - k) for k in range(8)] for c in range(3)]
    return np.array(bits).sum(1).T.astype(np.uint8)


def label_map(names: Sequence[str]) -> str:
    """labelmap.txt: a line with name and colour for each class, the ground first.

    Its ":" and a "#" at the start of a line are syntax: in names they become the full-width signs.
    """
    clean: list[str] = []
    for name in (*names, "background"):
        name = " ".join(name.split()).replace(":", "：")
        name = "＃" + name[1:] if name.startswith("#") else name
        while name in clean:
            name += "_"
        clean.append(name)
    lines = [
        f"{name}:{','.join(map(str, colour))}::"
        for name, colour in zip((clean[-1], *clean[:-1]), colours(len(names)).tolist(), strict=True)
    ]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def class_mask(item: Item, table: np.ndarray) -> Image.Image:
    """The colours of the classes: with labels as indices up to 254 of them, as RGB beyond."""
    if len(table) > LARGEST_INDEX + 1:
        return Image.fromarray(table[item.result.labels])
    image = Image.fromarray(item.result.labels.astype(np.uint8))
    image.putpalette(table.tobytes())
    return image


def folder(path: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write SegmentationClass/, ImageSets/Segmentation/train.txt, labelmap.txt and JPEGImages/."""
    table = colours(len(names))
    with whole_folder(path) as root:
        lists = root / "ImageSets" / "Segmentation"
        make_folder(lists)
        make_folder(root / "JPEGImages")
        (root / "labelmap.txt").write_text(label_map(names), encoding="utf-8", newline="\n")
        with open(lists / "train.txt", "w", encoding="utf-8", newline="\n") as listed:
            for item in items:
                file = root / "SegmentationClass" / f"{item.name}.png"
                make_folder(file.parent)
                class_mask(item, table).save(file)
                link_picture(item, root / "JPEGImages")
                listed.write(f"{item.name}\n")


def archive(path: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write what CVAT imports as "Segmentation mask 1.1"."""
    table = colours(len(names))

    def write(file: BinaryIO) -> None:
        listed = []
        with zipfile.ZipFile(file, "w") as zipped:

            def add(name: str, content: bytes) -> None:
                zipped.writestr(zipfile.ZipInfo(name), content)  # always the same date

            add("labelmap.txt", label_map(names).encode())
            for item in items:
                add(f"SegmentationClass/{item.name}.png", png(class_mask(item, table)))
                listed.append(f"{item.name}\n")
            add("ImageSets/Segmentation/default.txt", "".join(listed).encode())

    write_atomically(path, write)


FORMATS = (
    FolderFormat(
        "voc",
        "PASCAL VOC folder: class masks, list, labelmap.txt, links to the pictures",
        "voc/",
        make=folder,
    ),
    FolderFormat("cvat", "zip file for CVAT: Segmentation mask 1.1", "cvat.zip", make=archive),
)
