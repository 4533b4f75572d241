"""Image-text models: CLIP and its families, the towers that read them, and how they are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordmask.devices import pick_device, pick_dtype
from wordmask.errors import WordmaskError
from wordmask.towers.blip import BlipText, BlipTower
from wordmask.towers.clip import ClipTower
from wordmask.towers.hub import (
    build_model,
    check_complete,
    load_from,
    named,
    read_normalisation,
)
from wordmask.towers.siglip import SiglipText, SiglipTower
from wordmask.towers.text import TextTower, default_cache_dir
from wordmask.user_code import is_file


@dataclass(frozen=True)
class Family:
    """A family of image-text models and the towers that read it.

    Attributes:
        model: its class in transformers.
        tower, text: the towers for its image and its text encoder.
        text_parts: attributes of its text model, and of its text projection if it has one.
    """

    model: str
    tower: type[ClipTower] = ClipTower
    text: type[TextTower] = TextTower
    text_parts: tuple[str, str] = ("text_model", "text_projection")


FAMILIES = {  # by the model type in the configuration
    "clip": Family("CLIPModel"),
    "clip_vision_model": Family("CLIPVisionModelWithProjection"),
    "blip": Family("BlipForImageTextRetrieval", BlipTower, BlipText, ("text_encoder", "text_proj")),
    "siglip": Family("SiglipModel", SiglipTower, SiglipText, ("text_model", "")),
}


@dataclass(frozen=True)
class LoadedClip:
    """An image-text model with its tokenizer and normalisation.

    Attributes:
        model: a model of one of the `FAMILIES`.
        tokenizer: its tokenizer, None if there is none.
        mean, std: normalisation of pictures; None: the default of the family's tower.
        source: the id or folder that it was loaded from.
    """

    model: Any
    tokenizer: Any
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    source: str

    def tower(self, **settings: Any) -> ClipTower:
        """The vision tower; `activation` and `norm_eps` as for `ClipTower`.

        Raises:
            WordmaskError: the model lacks modules that its family's tower needs.
        """
        return _family(self.model).tower(self.model, mean=self.mean, std=self.std, **settings)

    def text(self, cache_dir: str | os.PathLike[str] | None = None) -> TextTower | None:
        """The text tower; None if there is no text encoder.

        cache_dir: embeddings are cached in `wordmask` below it; None: the user's own cache.
        """
        family = _family(self.model)
        encoder, projection = family.text_parts
        if not hasattr(self.model, encoder):
            return None
        last = getattr(self.model, projection) if projection else nn.Identity()
        cache = Path(cache_dir) / "wordmask" if cache_dir else default_cache_dir()
        return family.text(getattr(self.model, encoder), last, self.tokenizer, cache_dir=cache)


def load_clip(
    source: str | os.PathLike[str] | nn.Module,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    tokenizer: Any = None,
) -> LoadedClip:
    """Load a CLIP, or another image-text model of `FAMILIES`, in transformers format.

    Files in the hub's cache are used; missing ones are downloaded.

    Args:
        source: a hub id (`owner/name`, or `owner/name@revision`), a local folder, a name
            `wordmask/...`, `FILE.py:FUNCTION`, see `build_model`, or a model in memory, which is
            neither changed nor moved.
        device, dtype: of the loaded model, see `pick_device` and `pick_dtype`.
        cache_dir: the hub's cache; None: its own.
        local_files_only: never use the network.
        tokenizer: in place of the checkpoint's own.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached, another kind of model,
            or a device or dtype given with a model in memory.
    """
    if isinstance(source, nn.Module):
        if device is not None or dtype is not None:
            raise WordmaskError(
                "got device or dtype with a model in memory, which is used as it is; move it first "
                "with model.to(...)"
            )
        return LoadedClip(source, tokenizer, None, None, type(source).__name__)
    name = os.fspath(source)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    if is_file(name):
        model, own = build_model(name)
        return LoadedClip(model.to(place, kind), tokenizer or own, None, None, name)

    def load(at: str, where: dict[str, Any]) -> LoadedClip:
        loaded = _load(at, kind, where)
        offline, on_hub = where["local_files_only"], not Path(at).is_dir()
        if loaded.tokenizer is None and offline and on_hub and not local_files_only:
            raise FileNotFoundError("tokenizer")  # so that it is downloaded
        return loaded

    loaded = load_from(name, load, cache_dir=cache_dir, local_files_only=local_files_only)
    return replace(
        loaded,
        model=loaded.model.eval().to(place),
        tokenizer=tokenizer or loaded.tokenizer,
        source=name,
    )


@dataclass(frozen=True)
class Classifier:
    """A second image-text model: its vision tower and its text tower."""

    tower: ClipTower
    text: TextTower | None

    @property
    def model(self) -> nn.Module:
        """The model of both towers."""
        return self.tower.model


def load_classifier(source: str | os.PathLike[str] | nn.Module, **where: Any) -> Classifier:
    """Load a second image-text model; arguments as for `load_clip`."""
    if isinstance(source, nn.Module):
        where = {"cache_dir": where.get("cache_dir")}
    loaded = load_clip(source, **where)
    return Classifier(loaded.tower(), loaded.text(where.get("cache_dir")))


def _family(model: nn.Module) -> Family:
    kind = getattr(getattr(model, "config", None), "model_type", "clip")
    return FAMILIES.get(kind, FAMILIES["clip"])


def _load(name: str, dtype: torch.dtype, where: dict[str, Any]) -> LoadedClip:
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise WordmaskError(
            f"got a {config.model_type!r} model from {name}; wordmask reads CLIP, BLIP for "
            "retrieval, and SigLIP of fixed sizes"
        )
    model, report = getattr(transformers, family.model).from_pretrained(
        name, dtype=dtype, trust_remote_code=False, output_loading_info=True, **where
    )
    check_complete(report["missing_keys"], named(name, where), family.model)
    tokenizer = None
    if config.model_type != "clip_vision_model":
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
        except Exception:  # the text tower raises when names are to be encoded
            tokenizer = None
    default = family.tower.default_mean, family.tower.default_std
    mean, std = read_normalisation(name, where, default)
    return LoadedClip(model, tokenizer, mean, std, name)
