"""YOLO's segmentation labels, as Ultralytics trains on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wordmask.files import make_folder
from wordmask.formats.base import FolderFormat, Item
from wordmask.formats.folders import link_picture, whole_folder
from wordmask.regions import polygons


def lines(item: Item) -> str:
    """One line for each connected part of each word: its class from 0, and a polygon in [0, 1].

    The format has no holes: each is joined to the outline by a cut. Polygons run through the middle
    of the pixels at the border, since its readers fill a polygon with its border (fillPoly of
    OpenCV); a hair less than the middle, so that those which round and those which truncate draw
    the same pixels.
    """
    height, width = item.result.labels.shape
    text = []
    for region in item.result.regions():
        for one in polygons(region.pixels):
            line = (one.ring(0.5) - 0.05 + region.box[:2]) / (width, height)
            text.append(" ".join([str(region.label - 1), *(f"{x:.8g}" for x in np.ravel(line))]))
    return "".join(f"{line}\n" for line in text)


def data_set(path: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write a folder with data.yaml, labels/NAME.txt and images/ with links to the pictures."""
    with whole_folder(path) as folder:
        make_folder(folder / "images")
        for item in items:
            file = folder / "labels" / f"{item.name}.txt"
            make_folder(file.parent)
            file.write_text(lines(item), encoding="utf-8", newline="\n")
            link_picture(item, folder / "images")
        rows = [f"  {i}: {json.dumps(one, ensure_ascii=False)}" for i, one in enumerate(names)]
        text = "\n".join(["train: images", "val: images", "names:", *rows, ""])
        (folder / "data.yaml").write_text(text, encoding="utf-8", newline="\n")


FORMATS = (
    FolderFormat(
        "yolo-seg",
        "YOLO segmentation labels with data.yaml, ready to train on",
        "yolo/",
        make=data_set,
    ),
)
