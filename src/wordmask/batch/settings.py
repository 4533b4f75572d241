"""The settings that results of a folder depend on, as plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wordmask.user_code import is_file, source_digest
from wordmask.vocabulary import TEMPLATE_LISTS, templates

if TYPE_CHECKING:
    import torch

    from wordmask.methods import Method
    from wordmask.refiners import Refiner
    from wordmask.segmenter import Segmenter


def settings_of(segmenter: Segmenter) -> dict[str, Any]:
    """`run_settings` of a segmenter that is loaded; an `OnnxSegmenter` has its own."""
    if hasattr(segmenter, "settings"):
        return segmenter.settings()
    return run_settings(
        segmenter.method,
        segmenter.variant,
        segmenter.refiners,
        segmenter.networks.sources,
        segmenter.source,
        segmenter.tower.dtype,
    )


def run_settings(
    method: Method,
    variant: str,
    refiners: Sequence[Refiner],
    networks: Mapping[str, Any],
    model: str,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The settings that results depend on besides words and pictures, as plain values.

    Args:
        networks: the sources of auxiliary models by kind; unused kinds are left out.
        model: the id or folder of the model.
    """
    options = method.options()
    code = {f"the method {method.name}": source_digest(method)}
    code |= {f"the refiner {one.name}": source_digest(one) for one in refiners}
    if options["templates"] not in TEMPLATE_LISTS:  # a file may change
        options["templates"] = templates(options["templates"])
    return {
        "method": method.name,
        "variant": variant,
        "options": options,
        "refiners": [{"name": r.name} | r.options() for r in refiners],
        "networks": {kind: _source(networks[kind]) for kind in used_networks(method, refiners)},
        "model": _source(model),
        "dtype": str(dtype).removeprefix("torch."),
        **{f"code of {name}": digest for name, digest in code.items() if digest},
    }


def used_networks(method: Method, refiners: Sequence[Refiner]) -> list[str]:
    """The kinds of auxiliary models that a method and refiners use, sorted."""
    return sorted({kind for one in (method, *refiners) for kind in one.networks})


def _source(source: Any) -> str:
    """The source of weights; for a module in memory, their hash."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if is_file(text):
            return f"{text} {source_digest(text)}"
        return os.path.abspath(text) if os.path.isdir(text) else text
    from wordmask.towers.weights import fingerprint

    return f"{type(source).__name__} {fingerprint(source)}"
