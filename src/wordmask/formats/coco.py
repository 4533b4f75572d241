"""COCO: instances as run lengths or polygons, and panoptic pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from wordmask.colours import palette
from wordmask.files import make_folder, write_atomically
from wordmask.formats.base import FolderFormat, Item
from wordmask.formats.folders import link_picture, whole_folder


def instances(
    path: Path,
    names: Sequence[str],
    items: Iterable[Item],
    *,
    polygons: bool = False,
    components: bool = False,
) -> None:
    """Write an instances file: one annotation for each word found in each picture.

    Args:
        polygons: polygons along the edges of the pixels, whose holes are joined to the outline by a
            cut, instead of run lengths.
        components: one annotation for each connected component.
    """

    def annotations() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        for item in items:
            one = item.result.to_coco(item.file_name, polygons, components)
            yield one["images"][0], one["annotations"]

    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    write_atomically(path, partial(_stream, categories, annotations()))


def panoptic(path: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write a folder with annotations/panoptic_all.json, its PNGs in annotations/panoptic_all/ and
    links to the pictures in images/.

    The id of a segment is the label; pixels of no class are 0, which COCO leaves out.
    """
    with whole_folder(path) as folder:
        pictures = folder / "annotations" / "panoptic_all"

        def segments() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
            for item in items:
                labels = item.result.labels.astype(np.uint32)
                height, width = labels.shape
                found = [
                    {
                        "id": one.label,
                        "category_id": one.label,
                        "area": one.area,
                        "bbox": list(one.xywh),
                        "iscrowd": 0,
                    }
                    for one in item.result.regions()
                ]
                file = pictures / f"{item.name}.png"
                make_folder(file.parent)
                digits = np.stack([labels % 256, labels // 256, labels // 65536], axis=-1)
                Image.fromarray(digits.astype(np.uint8)).save(file)
                link_picture(item, folder / "images")
                image = {"file_name": item.linked, "height": height, "width": width}
                yield image, [{"file_name": f"{item.name}.png", "segments_info": found}]

        categories = [
            {"id": i, "name": name, "isthing": 0, "color": colour}
            for i, (name, colour) in enumerate(
                zip(names, palette(len(names))[1:].tolist(), strict=True), start=1
            )
        ]
        make_folder(pictures)
        make_folder(folder / "images")
        with open(folder / "annotations" / "panoptic_all.json", "wb") as file:
            _stream(categories, segments(), file, numbered=False)


def _stream(
    categories: list[dict[str, Any]],
    pictures: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]],
    file: BinaryIO,
    numbered: bool = True,
) -> None:
    """Write categories, images and annotations; only one picture is in memory at a time."""
    head = {"info": {"description": "made by wordmask"}, "licenses": [], "categories": categories}
    file.write(json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "images": [')
    with TemporaryFile() as rest:  # the annotations until all images are listed
        count = 0
        for number, (image, annotations) in enumerate(pictures, start=1):
            file.write(b",\n" if number > 1 else b"\n")
            file.write(json.dumps({**image, "id": number}, ensure_ascii=False).encode())
            for one in annotations:
                count += 1
                ids = {"id": count} if numbered else {}
                line = json.dumps({**one, **ids, "image_id": number}, ensure_ascii=False)
                rest.write((",\n" if count > 1 else "\n").encode() + line.encode())
        file.write(b'\n], "annotations": [')
        rest.seek(0)
        copyfileobj(rest, file)
    file.write(b"\n]}\n")


FORMATS = (
    FolderFormat(
        "coco",
        "COCO instances with run lengths, one for each word found",
        "coco.json",
        "formats",
        make=instances,
    ),
    FolderFormat(
        "coco-polygons",
        "COCO instances with polygons along the edges of pixels, holes cut open",
        "coco_polygons.json",
        make=partial(instances, polygons=True),
    ),
    FolderFormat(
        "coco-components",
        "COCO instances with run lengths, one for each connected component",
        "coco_components.json",
        "formats",
        make=partial(instances, components=True),
    ),
    FolderFormat(
        "coco-panoptic",
        "COCO panoptic: a JSON file, a folder of PNGs, links to the pictures",
        "coco_panoptic/",
        make=panoptic,
    ),
)
