"""Formats of one picture."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from wordmask.errors import WordmaskError
from wordmask.files import shown
from wordmask.formats.base import INDEX, Item, PictureFormat
from wordmask.formats.label_studio import task
from wordmask.regions import Region, polygons, run_lengths

LONGEST_JPEG = 65_000


def labels(item: Item) -> bytes:
    """The label picture: palette PNG, 16-bit grey for more than 255 classes."""
    return png(item.result.label_image())


def labels16(item: Item) -> bytes:
    """The labels as 16-bit grey values."""
    return png(Image.fromarray(item.result.labels.astype(np.uint16)))


def overlay(item: Item) -> bytes:
    """The colours of the classes over the picture, with a legend, as JPEG."""
    image = item.result.overlay()
    image.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()


def scores(item: Item) -> bytes:
    """`scores` (C, h, w) on the patch grid and `names`, for numpy."""
    if item.result.scores is None:
        raise WordmaskError("the scores were not kept; segment again and keep them")
    file = io.BytesIO()
    arrays: Any = {"scores": item.result.scores, "names": np.array(item.result.names)}
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def summary(item: Item) -> bytes:
    """Shares of the classes and provenance; the schema is segmentation.schema.json."""
    name = shown(item.name.rpartition("/")[2])
    label_file = f"{name}_{item.labels}.png" if item.labels else None
    head = {"picture": item.picture or None, "words": item.words, "labels": label_file}
    summary = json.loads(item.result.to_json())
    return text({"schema": summary.pop("schema"), **head, **summary}, indent=2)


def renamed(content: bytes, name: str, picture: str) -> bytes:
    """The JSON of a picture whose results were given the name `name`."""
    summary = json.loads(content)
    if label_file := summary.get("labels"):
        kind = label_file.rpartition("_")[2]
        summary["labels"] = f"{os.path.basename(shown(name))}_{kind}"
    return text(summary | {"picture": shown(picture)}, indent=2)


def masks(item: Item) -> dict[str, bytes]:
    """A black and white PNG for each word that was found."""
    return _by_word(item, lambda label: Image.fromarray(item.result.labels == label))


def cutouts(item: Item) -> dict[str, bytes]:
    """For each word that was found, the picture with all else transparent."""
    return _by_word(item, lambda label: item.result.cutout(label))


def rle(item: Item) -> bytes:
    """COCO's run lengths of each word that was found."""
    return text([described(one, item.result.labels.shape) for one in item.result.regions()])


def components(item: Item) -> bytes:
    """COCO's run lengths of each connected component, with box, area and mean score."""
    found = item.result.regions(components=True)
    return text([described(one, item.result.labels.shape) for one in found])


def outlines(item: Item) -> bytes:
    """GeoJSON in pixels: a MultiPolygon with holes for each word that was found."""
    result = item.result
    shares, features = result.shares(), []
    for name in result.found:
        coordinates = [
            [np.concatenate([ring, ring[:1]]).tolist() for ring in (one.exterior, *one.holes)]
            for one in polygons(result.mask(name))
        ]
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "label": result.names.index(name) + 1,
                    "name": name,
                    "classification": {"name": name},  # for QuPath
                    "share": shares[name],
                },
                "geometry": {"type": "MultiPolygon", "coordinates": coordinates},
            }
        )
    return text({"type": "FeatureCollection", "features": features})


def brush(item: Item) -> bytes:
    """A Label Studio task with the words that were found as brush strokes."""
    return text([task(item)])


def described(region: Region, size: tuple[int, ...]) -> dict[str, Any]:
    """A region as an entry of COCO's results, with its class as label and name."""
    height, width = size
    entry = {
        "label": region.label,
        "name": region.name,
        "bbox": list(region.xywh),
        "area": region.area,
        "segmentation": run_lengths(region.mask((height, width))),
    }
    return entry if region.score is None else {**entry, "score": region.score}


def png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def text(value: Any, indent: int | None = None) -> bytes:
    """Plain values as JSON in UTF-8."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()


def _by_word(item: Item, draw: Callable[[int], Image.Image]) -> dict[str, bytes]:
    """A PNG for each word that was found, and a file that says which is which."""
    numbers = sorted(item.result.names.index(name) + 1 for name in item.result.found)
    files = {f"{n}_{safe_name(item.result.names[n - 1])}.png": n for n in numbers}
    index = [
        {"file": file, "label": n, "name": item.result.names[n - 1]} for file, n in files.items()
    ]
    return {file: png(draw(n)) for file, n in files.items()} | {INDEX: text(index, indent=2)}


def safe_name(name: str) -> str:
    """A class name as part of a file name: letters and digits of any script, - and _."""
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return kept.encode()[:100].decode(errors="ignore")


FORMATS = (
    PictureFormat(
        "labels",
        "pixel values are labels; a palette up to 255 words, 16-bit beyond",
        "_labels.png",
        encode=labels,
    ),
    PictureFormat(
        "labels16", "pixel values are labels, always 16-bit grey", "_labels16.png", encode=labels16
    ),
    PictureFormat(
        "overlay",
        "colours over the photo and a legend",
        "_overlay.jpg",
        encode=overlay,
        needs="image",
    ),
    PictureFormat(
        "scores",
        "class scores on the patch grid, for numpy",
        "_scores.npz",
        encode=scores,
        needs="scores",
    ),
    PictureFormat("json", "pixel shares and provenance, by a schema", ".json", encode=summary),
    PictureFormat(
        "masks",
        "a black and white PNG for each word found, and words.json",
        "_masks/",
        encode=masks,
    ),
    PictureFormat(
        "cutouts",
        "a PNG of each word found on transparent ground, and words.json",
        "_cutouts/",
        encode=cutouts,
        needs="image",
    ),
    PictureFormat(
        "polygons",
        "exact outlines with holes, GeoJSON in pixels",
        "_polygons.geojson",
        encode=outlines,
    ),
    PictureFormat("rle", "COCO run lengths of each word found", "_rle.json", "formats", encode=rle),
    PictureFormat(
        "components",
        "each connected component: box, area, mean score, COCO run lengths",
        "_components.json",
        "formats",
        encode=components,
    ),
    PictureFormat(
        "brush",
        "a Label Studio task with brush strokes",
        "_brush.json",
        "label-studio",
        encode=brush,
    ),
)
