"""wordmask: words in, masks out. Training-free open-vocabulary segmentation with a frozen CLIP.

Importing this package loads neither torch nor transformers; its names do when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from wordmask.errors import NO_TORCH
from wordmask.version import __version__

if TYPE_CHECKING:
    from wordmask.batch import segment_folder
    from wordmask.encoding import Encoding
    from wordmask.errors import ImageError, WordmaskError
    from wordmask.images import read_image
    from wordmask.large import segment_large
    from wordmask.methods import list_methods
    from wordmask.onnx.runtime import OnnxSegmenter
    from wordmask.refiners import list_refiners
    from wordmask.segmentation import Segmentation
    from wordmask.segmenter import Segmenter
    from wordmask.vocabulary import Background, Vocabulary

_HOMES = {
    "Background": "vocabulary",
    "Encoding": "encoding",
    "ImageError": "errors",
    "OnnxSegmenter": "onnx.runtime",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
    "Vocabulary": "vocabulary",
    "WordmaskError": "errors",
    "list_methods": "methods",
    "list_refiners": "refiners",
    "read_image": "images",
    "segment_folder": "batch",
    "segment_large": "large",
}

__all__ = [
    "Background",
    "Encoding",
    "ImageError",
    "OnnxSegmenter",
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "WordmaskError",
    "__version__",
    "list_methods",
    "list_refiners",
    "read_image",
    "segment_folder",
    "segment_large",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        try:
            return getattr(import_module(f"wordmask.{_HOMES[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise ModuleNotFoundError(NO_TORCH, name="torch") from None
            raise
    raise AttributeError(f"module 'wordmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
