"""COCO-Object (Xu et al., GroupViT, CVPR 2022): the 80 things of COCO, on val2017.

`coco_object` is the benchmark of the papers: the pixel maps of COCO-Stuff with all stuff as
background. `coco_object_instances` is made from the instance annotation (instances_val2017.json):
objects are painted from the largest to the smallest, so that small ones are on top, and crowds
are void except under objects. The two differ along outlines and in overlaps. `coco_train` has the
same 80 things on train2014, on which pseudo-masks from image-level labels are measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wordmask.datasets import coco_stuff, layout
from wordmask.datasets.base import Benchmark, Listing, Sample, register
from wordmask.datasets.reading import VOID, IndexMask, Target, table
from wordmask.errors import WordmaskError
from wordmask.extras import need

_LABELS = {number: label for label, number in enumerate(coco_stuff.IDS, 1)}
THING_IDS = coco_stuff.IDS[: coco_stuff.THINGS]

OBJECTS = table(
    {number - 1: label if label <= coco_stuff.THINGS else 0 for number, label in _LABELS.items()},
    void=(255,),
)
CONVERTED = table({value: value for value in range(coco_stuff.THINGS + 1)}, void=(255,))


@dataclass(frozen=True, kw_only=True)
class CocoObject(Benchmark):
    """val2017 with the pixel maps of COCO-Stuff, restricted to things.

    Without pixel maps, maps of 0 background, 1 to 80 and 255 are taken as they are: from
    `object_masks/val2017`, or *_instanceTrainIds.png, the names of GroupViT's converter.
    """

    title: str = "COCO-Object val2017"
    expected: int = 5000
    classes: int = coco_stuff.THINGS
    has_background: bool = True
    layout: str = f"{coco_stuff.CocoStuff.layout}; or object_masks/val2017/*.png of 0 to 80"
    words: str = "coco_object"
    note: str = "Pixel maps of COCO-Stuff with all stuff as background, as in the papers."

    def find(self, root: Path) -> Listing:
        """All photographs of val2017 and their maps."""
        pictures = coco_stuff.find_pictures(root)
        masks = _converted(root)
        if masks:
            return layout.pair(pictures, masks, partial(IndexMask, table=CONVERTED))
        load = partial(IndexMask, table=OBJECTS, hint=coco_stuff.HINT)
        return layout.pair(pictures, coco_stuff.find_maps(root), load)


def _converted(root: Path) -> dict[str, Path]:
    """Maps of 0 to 80, if there are any and no pixel maps."""
    for place in coco_stuff.MAPS:
        if (root / place).is_dir():
            maps = layout.files(root / place, (".png",))
            if any(name.isdigit() for name in maps):
                return {}
            made = layout.files(root / place, (".png",), "_instanceTrainIds")
            if made:
                return made
    for base in ("", "coco/"):
        if (root / f"{base}object_masks/val2017").is_dir():
            return layout.some_files(root / f"{base}object_masks/val2017", (".png",))
    return {}


@dataclass(frozen=True, kw_only=True)
class CocoObjectInstances(CocoObject):
    """val2017 with the instance annotation (needs pycocotools), see the top of this file."""

    title: str = "COCO-Object val2017, by instances"
    ignore: int | None = None
    layout: str = (
        "[coco/] images/val2017/*.jpg or val2017/*.jpg, and annotations/instances_val2017.json"
    )
    note: str = "From instance masks, not the maps that papers use; crowds are left out."

    def find(self, root: Path) -> Listing:
        """All pictures of the annotation; its objects are kept until labels are read."""
        pictures = coco_stuff.find_pictures(root)
        places = ("annotations", "coco/annotations", "COCO/annotations", ".")
        folder = layout.locate(root, places, "COCO annotation")
        path = folder / "instances_val2017.json"
        objects = read_instances(path)
        missing = [name for name in objects if name not in pictures]
        problems = layout.missing("picture", missing, len(objects), path)
        samples = (Sample(n, pictures[n], objects[n]) for n in objects if n in pictures)
        return Listing(tuple(samples), tuple(problems))


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """The objects of one picture; call it to paint the labels."""

    height: int
    width: int
    objects: tuple[dict[str, Any], ...]
    shown: str

    def __call__(self) -> Target:
        """The labels, (H, W) uint16.

        Raises:
            WordmaskError: pycocotools is not installed, or an outline cannot be used.
        """
        outlines = need("pycocotools.mask", "evaluate", "reading instances")
        target = np.zeros((self.height, self.width), np.uint16)
        # Crowds first, then the largest objects: later ones are on top.
        by_size = sorted(self.objects, key=lambda one: (not one.get("iscrowd"), -one["area"]))
        for one in by_size:
            label = VOID if one.get("iscrowd") else _LABELS[one["category_id"]]
            shape = one["segmentation"]
            try:
                if isinstance(shape, list) or isinstance(shape["counts"], list):
                    shape = outlines.frPyObjects(shape, self.height, self.width)
                if isinstance(shape, list):
                    shape = outlines.merge(shape)
                inside = outlines.decode(shape).astype(bool)
                target[inside] = label
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise WordmaskError(
                    f"an outline of {self.shown} cannot be used: {reason}"
                ) from None
        return target


def read_instances(path: Path) -> dict[str, InstanceMask]:
    """The objects of each picture of an instance annotation, by the name of the picture.

    Raises:
        WordmaskError: the file is missing, not an instance annotation, or has other categories.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures = {one["id"]: one for one in content["images"]}
        objects: dict[int, list[dict[str, Any]]] = {number: [] for number in pictures}
        for one in content["annotations"]:
            objects[one["image_id"]].append(
                {key: one[key] for key in ("category_id", "area", "segmentation")}
                | {"iscrowd": one.get("iscrowd", 0)}
            )
    except FileNotFoundError:
        raise WordmaskError(f"there is no annotation {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WordmaskError(f"{path} is not an instance annotation of COCO ({reason})") from None
    strange = {o["category_id"] for those in objects.values() for o in those} - set(THING_IDS)
    if strange:
        raise WordmaskError(f"{path} has the category id {min(strange)}, which COCO does not use")
    return {
        Path(one["file_name"]).stem: InstanceMask(
            one["height"], one["width"], tuple(objects[number]), f"{path}, {one['file_name']}"
        )
        for number, one in sorted(pictures.items())
    }


@dataclass(frozen=True, kw_only=True)
class CocoTrain(CocoObject):
    """train2014 with maps of 0 background, 1 to 80 and 255, or the pixel maps of COCO-Stuff.

    All pictures of train2014 are among those of train2017, for which COCO-Stuff has maps.
    """

    title: str = "COCO train2014"
    expected: int = 82783
    layout: str = (
        "[coco/] [images/]train2014/COCO_train2014_*.jpg, and [coco/] object_masks/train2014/*.png "
        "of 0 to 80, or stuffthingmaps/train2017/*.png"
    )
    note: str = "For pseudo-masks: --image-labels target. A copy of some of the pictures will do."

    def find(self, root: Path) -> Listing:
        """The pictures that are there, each with its map."""
        roots = ("", "coco/", "COCO/", "coco_stuff164k/")
        places = [f"{base}{place}train2014" for base in roots for place in ("images/", "")]
        folder = layout.locate(root, places, "COCO train2014 photographs")
        pictures = _numbers(layout.some_files(folder, (".jpg",)))
        made = [f"{base}object_masks/train2014" for base in roots]
        stuff = [f"{base}stuffthingmaps/train2017" for base in roots]
        folder = layout.locate(root, (*made, *stuff), "masks of COCO train2014")
        masks = _numbers(layout.some_files(folder, (".png",)))
        if folder.name == "train2014":
            load = partial(IndexMask, table=CONVERTED)
        else:  # maps of train2017, which is larger
            masks = {one: path for one, path in masks.items() if one in pictures}
            load = partial(IndexMask, table=OBJECTS, hint=coco_stuff.HINT)
        return layout.pair(pictures, masks, load)


def _numbers(files: dict[str, Path]) -> dict[str, Path]:
    """Files by the number of their picture: COCO_train2014_000000000009 is 000000000009."""
    return {name.rpartition("_")[2]: path for name, path in files.items()}


register(CocoObject(name="coco_object"), CocoObjectInstances(name="coco_object_instances"))
register(CocoTrain(name="coco_train"))
