"""Label Studio's tasks: brush strokes as pre-annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from wordmask.colours import palette
from wordmask.extras import need
from wordmask.files import write_atomically
from wordmask.formats.base import FolderFormat, Item
from wordmask.version import __version__

ADDRESS = "/data/local-files/?d="  # of a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, here /


def task(item: Item) -> dict[str, Any]:
    """The task of one picture, for a labelling interface as `interface` makes it.

    The picture is named as a local file with the document root "/" (addresses are kept).

    Raises:
        WordmaskError: label-studio-sdk, whose run lengths these are, is not installed.
    """
    brush = need("label_studio_sdk.converter.brush", "label-studio", "Label Studio's format")
    result = item.result
    height, width = result.labels.shape
    strokes = [
        {
            "from_name": "words",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": brush.mask2rle(result.mask(name).astype(np.uint8) * 255),
                "brushlabels": [name],
            },
        }
        for name in result.found
    ]
    place = item.picture or item.linked
    address = place if "://" in place else ADDRESS + quote(os.fsencode(Path(place).absolute())[1:])
    prediction = {"model_version": f"wordmask {__version__}", "result": strokes}
    return {"data": {"image": address}, "predictions": [prediction]}


def interface(names: Sequence[str]) -> str:
    """The labelling interface of a project, to be pasted into its settings."""
    colours = palette(len(names))[1:].tolist()
    rows = "".join(
        f'    <Label value={quoteattr(name)} background="#{bytes(colour).hex()}"/>\n'
        for name, colour in zip(names, colours, strict=True)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="words" toName="image">\n{rows}  </BrushLabels>\n</View>\n'
    )


def tasks(path: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """All pictures as one list of tasks, and the labelling interface beside it."""

    def write(file: BinaryIO) -> None:
        file.write(b"[")
        for number, item in enumerate(items):
            file.write(b",\n" if number else b"\n")
            file.write(json.dumps(task(item), ensure_ascii=False).encode())
        file.write(b"\n]\n")

    text = interface(names)
    write_atomically(path.with_suffix(".xml"), lambda file: file.write(text.encode()))
    write_atomically(path, write)


FORMATS = (
    FolderFormat(
        "label-studio",
        "Label Studio tasks with brush strokes, and the labelling interface",
        "label_studio.json",
        "label-studio",
        make=tasks,
    ),
)
