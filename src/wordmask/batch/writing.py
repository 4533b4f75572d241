"""The files of results: formats, their suffixes, and their bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wordmask.errors import WordmaskError, unknown
from wordmask.files import shown
from wordmask.vocabulary import Vocabulary

if TYPE_CHECKING:
    from wordmask.segmentation import Segmentation

SUFFIXES = {  # of the results of each format
    "labels": "_labels.png",
    "overlay": "_overlay.jpg",
    "scores": "_scores.npz",
    "json": ".json",
}
FORMATS = ("labels", "overlay", "json")  # by default
LONGEST_JPEG = 65_000


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Formats of results, each once, in the order of `SUFFIXES`.

    Raises:
        WordmaskError: an unknown one, or none.
    """
    given = [formats] if isinstance(formats, str) else list(formats)
    for name in given:
        if name not in SUFFIXES:
            raise unknown("format", name, SUFFIXES)
    if not given:
        raise WordmaskError(f"got no format; choose from: {', '.join(SUFFIXES)}")
    return tuple(name for name in SUFFIXES if name in given)


def render(
    result: Segmentation, picture: Path, words: Vocabulary, formats: Sequence[str]
) -> dict[str, bytes]:
    """The files of one picture, by its path: their content by suffix."""
    return {SUFFIXES[one]: _render(one, result, picture, words) for one in formats}


def _render(one: str, result: Segmentation, picture: Path, words: Vocabulary) -> bytes:
    if one == "json":
        summary = {"picture": shown(picture), "words": words.classes}
        summary |= json.loads(result.to_json())
        return (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
    file = io.BytesIO()
    if one == "labels":
        result.label_image().save(file, "PNG")
    elif one == "overlay":
        image = result.overlay()
        image.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
        image.save(file, "JPEG", quality=92, subsampling=0)
    else:
        arrays: Any = {"scores": np.asarray(result.scores), "names": np.array(result.names)}
        np.savez_compressed(file, **arrays)
    return file.getvalue()
