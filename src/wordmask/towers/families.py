"""Image-text models: CLIP and its families, the towers that read them, and how they are loaded."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordmask.devices import pick_device, pick_dtype
from wordmask.errors import WordmaskError
from wordmask.files import default_cache_dir
from wordmask.towers.blip import BlipText, BlipTower
from wordmask.towers.clip import ClipTower
from wordmask.towers.contents import ContentError, first_line
from wordmask.towers.fetch import (
    PREPROCESSOR,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    Files,
    lacking,
)
from wordmask.towers.hub import (
    at_revision,
    build_model,
    load_from,
    model_type,
    read_model,
    read_normalisation,
)
from wordmask.towers.siglip import SiglipText, SiglipTower
from wordmask.towers.text import MetaClip2Text, TextTower
from wordmask.towers.tips import TipsText, TipsTower
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
    "metaclip_2": Family("MetaClip2Model", text=MetaClip2Text),
    "tipsv2": Family("Tipsv2Model", TipsTower, TipsText, ("text_model", "")),
}
FILES = Files(expected=(TOKENIZER,), extra=PREPROCESSOR + TOKENIZER_SETTINGS)


@dataclass(frozen=True)
class LoadedClip:
    """An image-text model with its tokenizer and normalisation.

    Attributes:
        model: a model of one of the `FAMILIES`.
        tokenizer: its tokenizer, None if there is none.
        mean, std: normalisation of pictures; None: the default of the family's tower.
        source: the id or folder that it was loaded from.
        lacks: why there is no tokenizer.
    """

    model: Any
    tokenizer: Any
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    source: str
    lacks: str = ""

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
        encoder = getattr(self.model, encoder)
        return family.text(encoder, last, self.tokenizer, cache_dir=cache, lacks=self.lacks)


def load_clip(
    source: str | os.PathLike[str] | nn.Module,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    tokenizer: Any = None,
    revision: str | None = None,
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
        revision: a branch, tag or commit of a hub id, as after its @.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached, another kind of model,
            or a device or dtype given with a model in memory.
    """
    source = at_revision(source, revision)
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

    return load_from(
        name,
        lambda folder: _load(name, folder, place, kind, tokenizer),
        FILES,
        check=lambda folder: _check(name, folder, tokenizer is not None),
        half=kind.itemsize == 2,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
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


def _check(name: str, folder: Path, has_tokenizer: bool) -> Files:
    """The files of a checkpoint, once its configuration is there; refuses other models."""
    kind = model_type(folder, name)
    if kind not in FAMILIES:
        raise WordmaskError(
            f"got a {kind!r} model from {name}; wordmask reads CLIP, MetaCLIP 2, BLIP for "
            "retrieval, SigLIP of fixed sizes, and TIPSv2"
        )
    textless = has_tokenizer or kind == "clip_vision_model"
    return replace(FILES, expected=()) if textless else FILES


def _load(
    name: str, folder: Path, device: torch.device, dtype: torch.dtype, tokenizer: Any
) -> LoadedClip:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family, lacks = FAMILIES[config.model_type], ""
    if tokenizer is None and config.model_type != "clip_vision_model":
        gaps = lacking(folder, Files(weights=(), required=FILES.expected))
        lacks = f"{folder} lacks {', '.join(gaps)}" if gaps else ""
        tokenizer = None if gaps else _read_tokenizer(folder, config.text_config.vocab_size)
    model = read_model(family.model, folder, name, family.model, device=device, dtype=dtype)
    default = family.tower.default_mean, family.tower.default_std
    mean, std = read_normalisation(folder, default)
    return LoadedClip(model, tokenizer, mean, std, name, lacks)


def _read_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The tokenizer in a folder, for a text model with so many tokens."""
    from transformers import AutoTokenizer

    only = [f for option in TOKENIZER for f in option if (folder / f).is_file()]
    if all(file.endswith(".model") for file in only):
        absent = [name for name in ("sentencepiece", "protobuf") if not _installed(name)]
        if absent:
            raise WordmaskError(
                f"the tokenizer {folder / only[0]} needs {' and '.join(absent)}; run: "
                'pip install "wordmask[siglip]"'
            )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # broken files raise many kinds of errors
        raise ContentError(f"its tokenizer cannot be read: {first_line(error)}") from None
    if len(tokenizer) < vocabulary / 2:  # a text model may have some tokens more, for padding
        raise ContentError(
            f"its tokenizer ({', '.join(only)}) has {len(tokenizer)} tokens and its text model "
            f"{vocabulary}"
        )
    return tokenizer


def _installed(package: str) -> bool:
    with suppress(PackageNotFoundError):
        return bool(version(package))
    return False
