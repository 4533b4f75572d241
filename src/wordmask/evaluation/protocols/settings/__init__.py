"""Settings of the papers and of their released code, data set by data set, as data.

`RELEASED` and `STATED` map a method (or `method:variant`) to the settings that all its data sets
share, and to changes by data set and by backbone. Keys are options of the method, or fields of the
protocol, see `protocols.FIELDS`. The method's own defaults hold for all that a paper does not
state.

A background is written as on the command line; `*` stands for the background words that the data
set has under the class names in use, `**` for those that are a class too as well.
"""

from __future__ import annotations

from wordmask.evaluation.protocols.settings import cliper, harness, others
from wordmask.evaluation.protocols.settings.source import Source

RELEASED: dict[str, Source] = {**harness.RELEASED, **others.RELEASED, **cliper.RELEASED}
STATED: dict[str, Source] = {**harness.STATED, **others.STATED, **cliper.STATED}

# One setting for all methods and data sets, chosen before any number was known.
UNTUNED = Source(
    "one fixed setting for all methods and data sets",
    {
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
    },
)

__all__ = ["RELEASED", "STATED", "UNTUNED", "Source"]
