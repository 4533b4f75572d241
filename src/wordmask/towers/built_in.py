"""What models bring with them: the networks inside the package, and families with options.

Importing this module loads no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PREFIX = "wordmask/"  # of the names of networks inside the package
CLIP = "wordmask/tiny-clip"

OPTIONS: dict[str, Any] = {  # of every method with the built-in CLIP, over the method's own
    "short_side": None,  # scenes are not resized
    "long_side": 640,  # but a photograph of 12 megapixels would be 190,000 patches
    "mean": None,  # the network's own normalisation
    "std": None,
    "templates": "openai",  # those of the network's training
}
FAMILY_OPTIONS: dict[str, dict[str, Any]] = {  # by model type, over those of every method too
    "tipsv2": {
        "short_side": 448,
        "whole_patches": True,
        "resample": "pil-bilinear",
        "position": "bilinear_antialias",
        "activation": "checkpoint",
        "mean": None,  # pixels stay in [0, 1]
        "std": None,
        "templates": "tips",
    },
}
NETWORKS = {  # the auxiliary models that go with it
    "vfm": "wordmask/tiny-vfm",
    "diffusion": "wordmask/tiny-diffusion",
    "classifier": CLIP,
}


def own_options(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a user gave, and what the model wants where none is given.

    A model on the hub is of a family of `FAMILY_OPTIONS` if its name says so, so that a run does
    not depend on what has been fetched already; other models if their configuration says so.
    """
    own = dict(OPTIONS) if _is_built_in(model) else dict(FAMILY_OPTIONS.get(_family(model), {}))
    if "short_side" in given:
        own.pop("long_side", None)  # whoever names a size gets it
    return own | dict(given)


def own_networks(model: Any) -> dict[str, str]:
    """The auxiliary models that go with a model; empty but for a built-in one."""
    return dict(NETWORKS) if _is_built_in(model) else {}


def note(model: Any) -> str:
    """What a user of a built-in model must know, in one line; "" for any other model.

    It is said of every picture: nothing tells a rendered scene from a photograph for sure.
    """
    if not _is_built_in(model):
        return ""
    return (
        f"{model} knows rendered scenes only (`wordmask demo` draws one); what it says of a "
        "photograph means nothing. For photographs give a CLIP as the model, such as "
        "openai/clip-vit-base-patch16 (600 MB, fetched once)"
    )


def _is_built_in(model: Any) -> bool:
    return isinstance(model, str) and model.startswith(PREFIX)


def _family(model: Any) -> str:
    """The model type of a model in memory or a folder; of a name, the one that it holds."""
    if not isinstance(model, (str, os.PathLike)):
        return getattr(getattr(model, "config", None), "model_type", "")
    path = Path(model).expanduser()
    if path.is_dir():
        try:
            kind = json.loads((path / "config.json").read_text("utf-8"))["model_type"]
        except (OSError, ValueError, LookupError, TypeError):  # told when the model is loaded
            return ""
        return kind if isinstance(kind, str) else ""
    name = os.fspath(model).partition("@")[0].rpartition("/")[2].lower()
    return next((family for family in FAMILY_OPTIONS if family in name), "")
