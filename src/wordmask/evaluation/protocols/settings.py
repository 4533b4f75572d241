"""Settings of the papers and their released code, data set by data set, as data.

Each entry of `RELEASED` and `STATED` is one method (or `method:variant`): what all its data sets
share, what single data sets change, and what another backbone changes. Keys are options of the
method, or of the protocol: names, background, view, void, definition, refine (see `protocols`).

A background is written as on the command line; `*` stands for the background words that the data
set has under the class names in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Settings of one method.

    Attributes:
        where: what they were read from.
        base: what all data sets share.
        datasets: changes by data set.
        backbones: changes by backbone, then by data set.
        refiners: options of refiners by data set ("base": for all of them), for those asked for;
            "backbone:data set" comes before the data set. "variant" names a refiner's variant.
        notes: what a reader must know beside the settings.
    """

    where: str
    base: Settings
    datasets: Mapping[str, Settings] = field(default_factory=dict)
    backbones: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    refiners: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# What SCLIP, ClearCLIP, NACLIP and ProxyCLIP share: one evaluation script, forked.
_HARNESS: dict[str, Any] = {
    "short_side": 336,
    "long_side": 2048,
    "resample": "cv2-bilinear",
    "whole_patches": False,
    "remainder": "drop",
    "position": "bicubic_offset",
    "window": 224,
    "stride": 112,
    "templates": "openai",
    "pooling": "max",
    "logit_scale": 40.0,
    "view": "original",
    "void": "ignore",
    "definition": "union",
}

_CLEARCLIP: dict[str, Any] = {
    **_HARNESS,
    "names": "clearclip",
    "short_side": 448,
    "window": 448,
    "stride": 224,
    "remainder": "pad",
    "logit_scale": 50.0,
}
_CLEARCLIP_SETS: dict[str, Settings] = {
    "voc21": {"background": "threshold:0.5:*"},
    "context60": {"background": "threshold:0.15:*"},
    "coco_object": {"background": "threshold:0.4:*"},
    "cityscapes": {"window": 224, "stride": 224},
}
_OTHER_IN_CLEARCLIP = (
    "Run in ClearCLIP's harness, whose tables hold the numbers that later papers cite.",
)

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


def _first_generation(settings: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings before the thresholds of attention and the choice of a layer were options."""
    dropped = ("select_layer", "attention_threshold")
    return {
        name: {k: v for k, v in changes.items() if k not in dropped}
        for name, changes in settings.items()
    }


_CLIPER_V1_B16 = _first_generation(_CLIPER_B16)
_CLIPER_V1_B16["voc21"]["normalize"] = False
_CLIPER_V1_L14 = _first_generation(_CLIPER_L14)
_CLIPER_V1_L14["voc21"]["background"] = "complement:2:*"
_CLIPER_V1_L14["voc20"].update(logit_scale=50.0, score_threshold=0.0)

_CLIPER_NOTES = (
    "Class scores are CLIP's alone unless a refiner is asked for: cliper+diffusion is the whole "
    "system, with the fine-grained compensation.",
    "Background words take part in the softmax on sets without a background too.",
)

RELEASED: dict[str, Source] = {
    "clip": Source(
        "ClearCLIP's released code (ad68a40) with its residual kept",
        {**_CLEARCLIP},
        {
            "voc21": {"background": "threshold:0.2:*"},
            "context60": {"background": "threshold:0.2:*"},
            "coco_object": {"background": "threshold:0.2:*"},
            "cityscapes": {"window": 224, "stride": 224},
        },
        notes=(
            *_OTHER_IN_CLEARCLIP,
            "The threshold of 0.2 for plain CLIP is documented for one set and used for all three.",
        ),
    ),
    "maskclip": Source(
        "ClearCLIP's released code (ad68a40), identity attention",
        _CLEARCLIP,
        _CLEARCLIP_SETS,
        notes=_OTHER_IN_CLEARCLIP,
    ),
    "maskclip:official": Source(
        "MaskCLIP's released configurations (245d31f)",
        {
            **{k: v for k, v in _HARNESS.items() if k not in ("position", "logit_scale")},
            "names": "plain",
            "short_side": 512,
            "position": "bicubic",
            "templates": "maskclip",
            "window": 0,
        },
        {"context59": {"short_side": 520}, "context60": {"short_side": 520}},
    ),
    "sclip": Source(
        "SCLIP's released configurations (b56bd30)",
        {**_HARNESS, "names": "sclip"},
        {
            "voc21": {
                "logit_scale": 65.0,
                "area_threshold": 0.1,
                "background": "threshold:0.1:*",
            },
            "context60": {"logit_scale": 50.0, "background": "threshold:0.1:*"},
            "coco_object": {"logit_scale": 50.0, "background": "threshold:0.1:*"},
            "coco_stuff": {"short_side": 448},
            "cityscapes": {"short_side": 560},
        },
    ),
    "clearclip": Source(
        "ClearCLIP's released configurations (ad68a40)", _CLEARCLIP, _CLEARCLIP_SETS
    ),
    "naclip": Source(
        "NACLIP's released configurations (0cac3a6)",
        {**_HARNESS, "names": "sclip", "refine": "pamr"},
        {
            "voc21": {"window": 0, "background": "threshold:0.1:*"},
            "voc20": {"window": 0},
            "context60": {"background": "threshold:0.1:*"},
            "coco_object": {"background": "threshold:0.1:*"},
            "cityscapes": {"short_side": 560},
        },
        refiners={"pamr": {"base": {"steps": 10, "dilations": (8, 16)}}},
        notes=("PAMR is part of the published main numbers.",),
    ),
    "proxyclip": Source(
        "ProxyCLIP's released configurations (e7b767f)",
        {
            **_HARNESS,
            "variant": "official",
            "names": "proxyclip",
            "window": 336,
            "remainder": "pad",
        },
        {
            "voc21": {"background": "threshold:0.2:*"},
            "context60": {"background": "threshold:0.15:*"},
            "coco_object": {"background": "threshold:0.25:*"},
            "cityscapes": {"short_side": 448, "window": 224},
            "ade150": {"short_side": 448},
            "ade847": {"short_side": 448},
            "context459": {"short_side": 448},
        },
        notes=("The code pads windows to multiples of 56 pixels, here to whole patches.",),
    ),
    "cliptrase": Source(
        "CLIPtrase's released code (2b7de61), single-GPU script at 336",
        {
            "names": "cliptrase",
            "short_side": None,
            "resample": "pil-bicubic",
            "position": "bicubic_offset",
            "window": 0,
            "templates": "openai",
            "logit_scale": 100.0,
            "eps": 1.1,
            "min_samples": 7,
            "view": "crop:336",
            "void": "ignore",
            "definition": "present",
        },
        {
            **{
                name: {"background": "names:*", "void": "background"}
                for name in ("voc21", "context60", "coco_object")
            },
            "voc20": {"class_prior": True},
        },
        notes=(
            "Scored on the centre crop alone, and void pixels as background where there is one: "
            "its numbers compare with no other paper's.",
        ),
    ),
    "gem": Source(
        "GEM's released code (5fa677c): its README's recipe, the same for every set",
        {
            "names": "plain",
            "short_side": 448,
            "window": 0,
            "templates": "single",
            "view": "original",
            "void": "ignore",
            "definition": "union",
        },
        {name: {"background": "threshold:0.85"} for name in ("voc21", "context60", "coco_object")},
        notes=(
            "The released code has no evaluation; its pictures are squashed to 448 x 448, here "
            "they keep their aspect.",
        ),
    ),
    "clip_surgery": Source(
        "CLIP Surgery's released code (d4696d4), the same for every set",
        {
            "names": "plain",
            "short_side": 512,
            "window": 0,
            "templates": "maskclip",
            "view": "original",
            "void": "ignore",
            "definition": "union",
        },
        notes=("The released code has no evaluation; 512 is its demonstration's size.",),
    ),
    "car": Source(
        "CaR's released configurations",
        {
            "classifier": "second",
            "names": "cliper",
            "background": "complement:2:*",
            "view": "original",
            "void": "ignore",
            "definition": "present",
        },
        {
            "context60": {"variant": "context"},
            "context59": {"variant": "context"},
            "coco_object": {"variant": "object"},
            "ade150": {"variant": "ade"},
        },
        notes=(
            "The released code adds a dense CRF, a second run for stuff, its own lists of names, "
            "and scores at 512 x 512; none of these is done here.",
        ),
    ),
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

# What the papers state. Where they are silent the method's own default stands.
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
    "cliptrase": Source(
        "CLIPtrase, ECCV 2024, section 5.1 and supplement B.1",
        {
            "variant": "paper",
            "short_side": None,
            "names": "cliptrase",
            "templates": "openai",
            "view": "crop:336",
            "void": "ignore",
            "definition": "union",
        },
        notes=("The paper states CLIP's own preprocessing: resize, then centre crop.",),
    ),
    "proxyclip": Source(
        "ProxyCLIP, ECCV 2024, supplement B and C; sizes as CLIPer's section 4.1 cites them",
        {
            "short_side": 336,
            "window": 336,
            "stride": 112,
            "names": "proxyclip",
            "templates": "openai",
            "view": "original",
            "void": "ignore",
            "definition": "union",
        },
    ),
    "clearclip": Source(
        "ClearCLIP, ECCV 2024, as CLIPer's Table 4 cites its input size",
        {
            "short_side": 448,
            "names": "clearclip",
            "templates": "openai",
            "view": "original",
            "void": "ignore",
            "definition": "union",
        },
    ),
}

# One setting for every method and data set, chosen before any number was seen.
UNTUNED: dict[str, Any] = {
    "names": "plain",
    "short_side": 336,
    "long_side": 2048,
    "resample": "pil-bicubic",
    "whole_patches": True,
    "remainder": "drop",
    "position": "bicubic",
    "mean": None,
    "std": None,
    "window": 0,
    "templates": "openai",
    "pooling": "max",
    "logit_scale": 100.0,
    "area_threshold": 0.0,
    "min_max": False,
    "view": "original",
    "void": "ignore",
    "definition": "union",
}
