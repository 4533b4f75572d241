"""Methods with their own evaluation code, or none: CLIPtrase, GEM, CLIP-ES, CLIP Surgery, CaR."""

from __future__ import annotations

from wordmask.evaluation.protocols.settings.source import Source

_PSEUDO_MASKS = {"background": "complement:1:*", "image_labels": "target"}

RELEASED: dict[str, Source] = {
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
            "variant": "official",
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
    "clip_es": Source(
        "CLIP-ES's released code (3893f81): pseudo-masks of pictures whose labels are known",
        {
            "names": "cliper",
            "view": "original",
            "void": "ignore",
            "definition": "present",
        },
        {
            **{
                name: {"background": "complement:1:*"}
                for name in ("voc21", "context60", "coco_object", "coco_object_instances")
            },
            "voc_train": _PSEUDO_MASKS,
            "voc_train_aug": _PSEUDO_MASKS,
            "coco_train": {**_PSEUDO_MASKS, "variant": "coco"},
        },
        notes=("The released code adds a dense CRF; none is done here.",),
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
            "view": "original",
            "void": "ignore",
            "definition": "present",
        },
        {
            "voc21": {"background": "complement:2:*"},
            "context60": {"variant": "context", "background": "complement:2:*"},
            "context59": {"variant": "context"},
            "coco_object": {"variant": "object", "background": "complement:2:*"},
            "coco_stuff": {"variant": "stuff"},
            "ade150": {"variant": "ade"},
        },
        notes=(
            "The released code adds a dense CRF, a second run for stuff, its own lists of names, "
            "and scores at 512 x 512; none of these is done here.",
        ),
    ),
}

STATED: dict[str, Source] = {
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
}
