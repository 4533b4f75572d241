"""Results in the forms that callers ask for."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from wordmask.formats import pictures
from wordmask.formats.base import Item
from wordmask.segmentation import Segmentation

JSON = "application/json"


def rle(result: Segmentation) -> bytes:
    """COCO's run lengths of each word that was found, with provenance."""
    height, width = result.labels.shape
    return _json(
        {
            "height": height,
            "width": width,
            "words": result.names,
            "regions": [pictures.described(one, (height, width)) for one in result.regions()],
            "provenance": _provenance(result),
        }
    )


def listed(result: Segmentation) -> bytes:
    """Label, score and mask of each word that was found, as transformers' pipelines give them."""
    found = []
    for one in result.regions():
        mask = one.mask(result.labels.shape)
        content = pictures.png(Image.fromarray(mask.astype(np.uint8) * 255))
        text = base64.b64encode(content).decode()
        found.append({"label": one.name, "score": one.score, "mask": text})
    return _json(found)


def arrays(result: Segmentation) -> bytes:
    """`labels` (H, W), `scores` (C, h, w) on the patch grid, `names`, `provenance` as JSON."""
    file = io.BytesIO()
    found: Any = {"labels": result.labels, "scores": result.scores}
    found["provenance"] = np.array(json.dumps(_provenance(result)))
    np.savez_compressed(file, **found, names=np.array(result.names))
    return file.getvalue()


FORMS: dict[str, tuple[str, Callable[[Segmentation], bytes]]] = {  # content type, and what writes
    "rle": (JSON, rle),
    "polygons": ("application/geo+json", lambda result: pictures.outlines(Item("", "", result))),
    "list": (JSON, listed),
    "png": ("image/png", lambda result: pictures.labels(Item("", "", result))),
    "npz": ("application/x-npz", arrays),
}


def _provenance(result: Segmentation) -> Any:
    return json.loads(result.to_json())["provenance"]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
