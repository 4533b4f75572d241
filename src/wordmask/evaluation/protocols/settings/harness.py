"""Methods evaluated with SCLIP's script, which ClearCLIP, NACLIP and ProxyCLIP forked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wordmask.evaluation.protocols.settings.source import Settings, Source

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

_PAMR: dict[str, Any] = {"pamr": {"base": {"steps": 10, "dilations": (8, 16), "at": "picture"}}}

# Steps on words, by the cards of their releases. FreeCP's windows are 384 (Cityscapes: 224) by 112.
_FREECP: dict[str, Settings] = {
    "base": {"variant": "official", "redundancy": 0.1},
    "voc21": {"redundancy": 0.15, "ambiguity": 0.8},
    "voc20": {"redundancy": 0.15},
    "coco_object": {"redundancy": 0.15, "ambiguity": 0.8},
    "cityscapes": {"ambiguity": 0.8},
    "ade150": {"redundancy": 0.05},
    "coco_stuff": {"redundancy": 0.05},
}
_WORDS: dict[str, Any] = {"freecp": _FREECP, "ptc": {"voc21": {"variant": "voc21"}}}

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
_PROXYCLIP_SETS: dict[str, Settings] = {
    "voc21": {"background": "threshold:0.2:*"},
    "context60": {"background": "threshold:0.15:*"},
    "coco_object": {"background": "threshold:0.25:**"},
    "cityscapes": {"short_side": 448, "window": 224},
    "ade150": {"short_side": 448},
    "ade847": {"short_side": 448},
    "context459": {"short_side": 448},
}
_CORRCLIP_SETS = {**_PROXYCLIP_SETS, "coco_object": {"background": "threshold:0.25:*"}}
_OTHER_IN_CLEARCLIP = (
    "Run in ClearCLIP's harness, whose tables hold the numbers that later papers cite.",
)


def _resclip(rcs_share: float, sfr_scale: float, sfr_share: float, label: float) -> Settings:
    return {
        "rcs_share": rcs_share,
        "sfr_scale": sfr_scale,
        "sfr_share": sfr_share,
        "label_threshold": label,
    }


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
            "coco_object": {"logit_scale": 50.0, "background": "threshold:0.1:**"},  # "bed"
            "coco_stuff": {"short_side": 448},
            "cityscapes": {"short_side": 560},
        },
        refiners=_PAMR,
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
            "coco_object": {"background": "threshold:0.1:**"},
            "cityscapes": {"short_side": 560},
        },
        refiners=_PAMR,
        notes=("PAMR is part of the published main numbers.",),
    ),
    "sc_clip": Source(
        "SC-CLIP's released configurations (0417ba9)",
        {**_HARNESS, "variant": "official", "names": "sclip"},
        {
            "voc21": {
                "logit_scale": 50.0,
                "area_threshold": 0.1,
                "background": "threshold:0.15:*",
            },
            "context60": {"background": "threshold:0.15:*"},
            "coco_object": {"logit_scale": 55.0, "background": "threshold:0.35:**"},
            "cityscapes": {"short_side": 560},
        },
    ),
    "rf_clip": Source(
        "RF-CLIP's released code (c2b333e), in SCLIP's harness",
        {**_HARNESS, "variant": "official", "names": "sclip", "refine": "pamr"},
        {
            "voc21": {"background": "threshold:0.1:*"},
            "context60": {
                "image_weight": 0.25,
                "text_distance": 0.09,
                "background": "threshold:0.1:*",
            },
            "coco_object": {"image_weight": 0.25, "background": "threshold:0.1:**"},
            "voc20": {"image_weight": 0.4},
            "context59": {"image_weight": 0.25, "text_distance": 0.09},
            "coco_stuff": {"image_weight": 0.2, "text_shift": 0.02, "text_distance": 0.02},
            "cityscapes": {
                "short_side": 560,
                "text_distance": 0.14,
                "image_vector": "window",
            },
            "ade150": {"image_weight": 0.3, "text_shift": 0.05, "text_distance": 0.06},
        },
        refiners=_PAMR,
        notes=(
            "Known of the release are the text options of VOC21, Stuff, Cityscapes and ADE, and "
            "PAMR. Those of other sets, sizes and thresholds are CASS's, whose text options are "
            "the same where both are known.",
        ),
    ),
    "pearl": Source(
        "PEARL's released code (c26062b), in SCLIP's harness",
        {**_HARNESS, "variant": "official", "names": "sclip"},
        {
            "voc21": {"background": "threshold:0.1:*"},
            "context60": {"background": "threshold:0.1:*"},
            "coco_object": {"background": "threshold:0.1:**"},
            "cityscapes": {"short_side": 560, "key_weight": 0.3, "grid": 224},
            "ade150": {"key_weight": 0.3},
        },
        notes=(
            "Known of the release are key_weight, grid and the logit scale; words, sizes, windows "
            "and thresholds are those of SCLIP's family.",
        ),
    ),
    "resclip": Source(
        "ResCLIP's released code (0e085f7)",
        {**_HARNESS, "variant": "official", "names": "sclip"},
        {
            "voc21": {
                **_resclip(0.3, 2.2, 0.7, 0.5),
                "window": 0,
                "background": "threshold:0.1:*",
            },
            "voc20": {**_resclip(0.6, 2.1, 0.6, 0.1), "window": 0},
            "context60": {**_resclip(0.3, 1.8, 0.7, 0.3), "background": "threshold:0.1:*"},
            "context59": _resclip(0.4, 1.8, 0.7, 0.25),
            "coco_object": {**_resclip(0.4, 1.8, 0.7, 0.11), "background": "threshold:0.1:**"},
            "coco_stuff": _resclip(0.4, 1.8, 0.7, 0.11),
            "cityscapes": {**_resclip(0.2, 2.1, 0.6, 0.1), "short_side": 560},
            "ade150": _resclip(0.3, 2.1, 0.7, 0.25),
        },
        notes=("PAMR is part of the first pass alone, not of the result.",),
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
        _PROXYCLIP_SETS,
        notes=("The code pads windows to multiples of 56 pixels, here to whole patches.",),
    ),
    "gla_clip": Source(
        "GLA-CLIP's released code (ba74915), in ProxyCLIP's harness",
        {**_HARNESS, "variant": "official", "names": "proxyclip", "remainder": "pad"},
        _PROXYCLIP_SETS,
        notes=(
            "Known of the release are its windows, scale and options; sizes and thresholds of data "
            "sets are ProxyCLIP's, on which it is built.",
        ),
    ),
    "corrclip": Source(
        "CorrCLIP's released configurations (103bc18)",
        {
            **_HARNESS,
            "variant": "official",
            "names": "proxyclip",
            "window": 336,
            "remainder": "pad",
            "region_maps": "sam2",
        },
        _CORRCLIP_SETS,
        notes=(
            "Its words are ProxyCLIP's but for people in place of person, here left as it is. "
            "Windows are padded to multiples of 56 pixels, here to whole patches.",
        ),
    ),
    "ov_stitcher": Source(
        "OV-Stitcher's released code (91a9489), in ProxyCLIP's harness",
        {
            **_HARNESS,
            "variant": "official",
            "names": "proxyclip",
            "window": 336,
            "remainder": "pad",
            "region_maps": "sam2",
        },
        _PROXYCLIP_SETS,
        notes=(
            "Known of the release are its windows, scale, regions and options; sizes and "
            "thresholds of data sets are ProxyCLIP's. Its 15 sentences a class are left out.",
        ),
    ),
}

RELEASED = {
    name: replace(source, refiners={**_WORDS, **source.refiners})
    for name, source in RELEASED.items()
}

STATED: dict[str, Source] = {
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
