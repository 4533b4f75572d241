"""The networks inside the package: what they were trained for, and what they know.

Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
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
NETWORKS = {  # the auxiliary models that go with it
    "vfm": "wordmask/tiny-vfm",
    "diffusion": "wordmask/tiny-diffusion",
    "classifier": CLIP,
}


def own_options(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a user gave, and what a built-in model wants where none is given."""
    own = dict(OPTIONS) if _is_built_in(model) else {}
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
