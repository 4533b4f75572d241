"""CLIPer: thresholds for each data set and backbone, in two versions of its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmask.evaluation.protocols.settings.source import Source

_CLIPER: dict[str, Any] = {
    "names": "cliper",
    "short_side": 336,
    "long_side": 2048,
    "resample": "pil-bicubic",
    "whole_patches": True,
    "position": "bilinear",
    "window": 0,
    "templates": "cliper",
    "logit_scale": 100.0,
    "select_layer": -1,
    "normalize": False,
    "view": "original",
    "void": "ignore",
    "definition": "present",
}


def _cliper(
    templates: str, scale: float, layer: int, attention: float, present: float, rule: str
) -> dict[str, Any]:
    return {
        "templates": templates,
        "logit_scale": scale,
        "select_layer": layer,
        "attention_threshold": attention,
        "score_threshold": present,
        "background": f"{rule}:*",
    }


_CLIPER_B16: dict[str, dict[str, Any]] = {
    "voc21": {**_cliper("cliper", 100.0, -1, 0.1, 0.7, "threshold:0.6"), "normalize": True},
    "voc20": _cliper("cliper", 100.0, -1, 0.1, 0.0, "threshold:0.001"),
    "context60": _cliper("cliper", 100.0, -1, 0.2, 0.45, "threshold:0.45"),
    "context59": _cliper("cliper", 100.0, -1, 0.2, 0.3, "threshold:0.3"),
    "coco_object": _cliper("openai", 50.0, -1, 0.2, 0.3, "threshold:0.3"),
    "coco_stuff": _cliper("cliper", 50.0, -1, 0.2, 0.1, "threshold:0.1"),
    "ade150": _cliper("cliper", 100.0, -1, 0.2, 0.3, "threshold:0.3"),
    "cityscapes": {
        **_cliper("openai", 100.0, -1, 0.35, 0.0, "threshold:0.0001"),
        "short_side": 560,
        "view": "halves",
    },
}
_CLIPER_L14: dict[str, dict[str, Any]] = {
    "voc21": {**_cliper("cliper", 50.0, -2, 0.1, 0.5, "threshold:0.4"), "normalize": True},
    "voc20": _cliper("cliper", 70.0, -1, 0.2, 0.1, "threshold:0.0001"),
    "context60": _cliper("openai", 50.0, -2, 0.2, 0.3, "threshold:0.3"),
    "context59": _cliper("cliper", 100.0, -2, 0.2, 0.45, "threshold:0.45"),
    "coco_object": _cliper("openai", 50.0, -2, 0.1, 0.5, "threshold:0.5"),
    "coco_stuff": _cliper("openai", 50.0, -2, 0.2, 0.2, "threshold:0.2"),
    "ade150": _cliper("openai", 50.0, -1, 0.2, 0.2, "threshold:0.2"),
    "cityscapes": {
        **_cliper("cliper", 100.0, -1, 0.35, 0.0, "threshold:0.0001"),
        "short_side": 448,
        "view": "halves",
    },
}


for _table in (_CLIPER_B16, _CLIPER_L14):  # no settings are known for training sets
    _table["voc_train"] = _table["voc_train_aug"] = _table["voc21"]
    _table["coco_train"] = _table["coco_object"]


def _first_generation(settings: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings without the attention threshold and the choice of a layer, added in v2."""
    dropped = ("select_layer", "attention_threshold")
    return {
        name: {k: v for k, v in changes.items() if k not in dropped}
        for name, changes in settings.items()
    }


_CLIPER_V1_B16 = _first_generation(_CLIPER_B16)
_CLIPER_V1_L14 = _first_generation(_CLIPER_L14)
for _name in ("voc21", "voc_train", "voc_train_aug"):
    _CLIPER_V1_B16[_name]["normalize"] = False
    _CLIPER_V1_L14[_name]["background"] = "complement:2:*"
_CLIPER_V1_L14["voc20"].update(logit_scale=50.0, score_threshold=0.0)

_CLIPER_NOTES = (
    "Class scores are CLIP's alone without a refiner: cliper+diffusion is the whole system, with "
    "the fine-grained compensation.",
    "Background words take part in the softmax on sets without a background too.",
    "Training sets have the settings of VOC21 and COCO-Object: there is no code for them.",
)

RELEASED: dict[str, Source] = {
    "cliper": Source(
        "CLIPer's released code, second generation (c05fa41)",
        _CLIPER,
        _CLIPER_B16,
        {"ViT-L/14": _CLIPER_L14},
        # the second generation shares its attention threshold between CLIP and the refiners
        {
            "diffusion": {
                name: {"threshold": changes["attention_threshold"]}
                for name, changes in _CLIPER_B16.items()
            }
            | {
                f"ViT-L/14:{name}": {"threshold": changes["attention_threshold"]}
                for name, changes in _CLIPER_L14.items()
            },
            "vfm": {"base": {"variant": "cliper"}},
        },
        notes=_CLIPER_NOTES,
    ),
    "cliper:official-v1": Source(
        "CLIPer's released code, first generation (0c32ff2): the code of the paper's numbers",
        _CLIPER,
        _CLIPER_V1_B16,
        {"ViT-L/14": _CLIPER_V1_L14},
        {
            "diffusion": {"base": {"variant": "official-v1", "threshold": 0.1}},
            "vfm": {"base": {"variant": "cliper"}},
        },
        notes=_CLIPER_NOTES,
    ),
}

STATED: dict[str, Source] = {
    "cliper": Source(
        "CLIPer, ICCV 2025, section 4.1 and supplement 6",
        {
            "variant": "paper",
            "short_side": 336,
            "window": 0,
            "names": "proxyclip",
            "templates": "openai",
            "view": "original",
            "void": "ignore",
            "definition": "union",
        },
        refiners={
            "diffusion": {"base": {"variant": "paper"}},
            "vfm": {"base": {"variant": "cliper"}},
        },
        notes=(
            "The paper gives no threshold, no logit scale and no list of names; it says that "
            "prompts and descriptions are similar to SCLIP and ProxyCLIP.",
        ),
    ),
}
