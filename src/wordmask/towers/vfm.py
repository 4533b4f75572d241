"""The VFM tower: dense features of a frozen vision foundation model of any of `FAMILIES`.

As `ClipTower` does with CLIP, it calls the model's own modules one after the other, so that it
takes pictures of any size and shape, resizes the position embedding as the model's own code does,
masks nothing for MAE, and can read the last block's queries, keys or values without a hook. Only
modules of transformers are used; nothing is changed.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.devices import check_finite
from wordmask.errors import WordmaskError
from wordmask.memory import free_memory
from wordmask.towers.clip import position_embedding
from wordmask.towers.fetch import TRANSFORMERS, Files, weight_settings
from wordmask.towers.hub import (
    at_revision,
    check_complete,
    load_from,
    model_type,
    read_normalisation,
    read_source,
)
from wordmask.towers.memory import check_memory
from wordmask.towers.weights import loaded_from
from wordmask.windows import GridMean, place_windows

if TYPE_CHECKING:
    from wordmask.towers.diffusion import DiffusionTower

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Facet = Literal["output", "queries", "keys", "values", "queries+keys"]

PROJECTIONS = {  # what the layers of an attention are called
    **{"q_proj": "queries", "query": "queries", "k_proj": "keys", "key": "keys"},
    **{"v_proj": "values", "value": "values", "qkv": "all"},
}


class VfmFamily(NamedTuple):
    """A family of VFMs.

    Attributes:
        title: its name in messages.
        module: its class in transformers.
        position: how its own code resizes the position embedding (see `position_embedding`);
            "rotary" has none, "fixed" takes pictures of one size, "own" leaves it and the
            normalisation to the model's modules.
    """

    title: str
    module: str
    position: str


FAMILIES = {  # by the model_type of their configuration
    "vit": VfmFamily("DINO", "ViTModel", "bicubic_offset"),
    "dinov2": VfmFamily("DINOv2", "Dinov2Model", "bicubic_offset"),
    "dinov2_with_registers": VfmFamily(
        "DINOv2 with registers", "Dinov2WithRegistersModel", "bicubic_antialias"
    ),
    "dinov3_vit": VfmFamily("DINOv3", "DINOv3ViTModel", "rotary"),
    "vit_mae": VfmFamily("MAE", "ViTMAEModel", "bicubic"),
    "radio": VfmFamily("RADIO", "RadioModel", "own"),
    "sam": VfmFamily("SAM", "SamVisionModel", "fixed"),
    "sam_vision_model": VfmFamily("SAM", "SamVisionModel", "fixed"),
}
SIZES = {  # millions of parameters of smaller models to suggest
    "facebook/dino-vits8": 22,
    "facebook/dino-vitb8": 86,
    "facebook/dinov2-small": 22,
    "facebook/dinov2-base": 87,
    "facebook/dinov2-large": 305,
}


class VfmTower:
    """A vision transformer of one of `FAMILIES` as a source of dense features.

    Args:
        model: a transformers module of one of these families, bare or with a head; used as it is.
        mean, std: normalisation of its pictures.
        source: the id or folder that it was loaded from.

    Attributes:
        patch: side of a patch in pixels.
        model: the bare network.

    Raises:
        WordmaskError: another kind of model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
        source: str = "in memory",
    ):
        config = getattr(model, "config", None)
        # SAM's own configurations have an empty type in their parts; their class knows it
        kind = getattr(config, "model_type", "") or getattr(type(config), "model_type", "")
        self.family = family_of(kind or type(model).__name__, source)
        network: Any = model
        if self.family.position == "fixed":
            network = getattr(model, "vision_encoder", model)
        elif not hasattr(model, "embeddings"):
            network = model.base_model
        self.model: Any = network
        if self.family.position == "own":
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.mean, self.std, self.source = mean, std, source
        side = self.model.config.patch_size
        self.patch: int = side if isinstance(side, int) else side[0]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._stem.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self._stem.weight.dtype

    @torch.no_grad()
    def features(self, unit_pixels: Tensor, facet: Facet = "output") -> Tensor:
        """Dense features of the last block, a vector for every patch.

        Pictures are resized to the nearest whole number of patches on each side, bilinearly and
        antialiased, so that the grid covers all of the picture; whole patches are left as they are.
        For SAM the long side becomes 1024 pixels and the other keeps the aspect to whole patches;
        then the picture is padded to a square as in its own code and the padding's features are cut
        off.

        Args:
            unit_pixels: (B, 3, H, W) float in [0, 1], at least one patch on each side.
            facet: "output" is the last block's output after the final norm (SAM: the neck's 256
                channels); "queries", "keys" and "values" are the inputs of its attention, heads
                concatenated, before any rotary embedding; "queries+keys" is a sum.

        Returns:
            (B, D, h, w) float32, without class and register tokens.

        Raises:
            WordmaskError: a picture smaller than one patch.
        """
        grid = self._grid(unit_pixels)
        if self.family.position == "fixed":
            return self._fixed_size(unit_pixels, facet)
        pixels = self._prepare(unit_pixels, grid)
        x = self._run(self._embed(pixels, grid), facet, self._extra(pixels))
        check_finite(x, f"the features of {self.source}", self.dtype)
        if facet == "output" and self.family.position != "own":  # RADIO has no final norm
            x = self.model.norm(x) if hasattr(self.model, "norm") else self.model.layernorm(x)
        patches = x[:, -grid[0] * grid[1] :]  # after class and register tokens
        return patches.transpose(1, 2).unflatten(2, grid).float()

    @torch.no_grad()
    def stitched(
        self, unit_pixels: Tensor, window: int, stride: int, facet: Facet = "output"
    ) -> Tensor:
        """Dense features of pictures seen in windows that are joined before the last block.

        Blocks but the last see windows; of the last one's input and its queries, keys and values
        those of patches are averaged on the grid of the whole picture, and it goes on from these,
        as in OV-Stitcher. SAM sees the whole picture.

        Args:
            unit_pixels: (B, 3, H, W) float in [0, 1], at least one patch on each side.
            window, stride: in pixels, taken in whole patches.
            facet: as for `features`, but without the final norm.

        Returns:
            (B, D, h, w) float32, on the grid of `features`.
        """
        if self.family.position == "fixed":
            return self.features(unit_pixels, facet)
        grid = self._grid(unit_pixels)
        pixels, p = self._prepare(unit_pixels, grid), self.patch
        windows = place_windows(*grid, *(max(round(side / p), 1) for side in (window, stride)))
        *blocks, last = self._blocks
        names = [name for name, _ in last.named_modules() if name.split(".")[-1] in PROJECTIONS]
        layers = [
            nn.Identity(),
            *(nn.Sequential(_norm(last), last.get_submodule(n)) for n in names),
        ]
        patches = [GridMean(grid) for _ in layers]
        for place in windows:
            y, x, h, w = place
            crop = pixels[..., y * p : (y + h) * p, x * p : (x + w) * p]
            tokens, extra = self._embed(crop, (h, w)), self._extra(crop)
            for block in blocks:
                tokens = _first(block(tokens, **extra))
            for layer, mean in zip(layers, patches, strict=True):
                mean.add(place, layer(tokens)[:, -h * w :].unflatten(1, (h, w)))
        joined, *given = (mean.mean().to(pixels).flatten(1, 2) for mean in patches)
        last = copy.deepcopy(last, {id(x): x for x in last.parameters()})  # of the same weights
        for name, output in zip(names, given, strict=True):
            owner, _, layer = name.rpartition(".")
            setattr(last.get_submodule(owner), layer, _Given(output))
        out = _run_last(last, joined, facet, self._extra(pixels))
        check_finite(out, f"the features of {self.source}", self.dtype)
        return out.transpose(1, 2).unflatten(2, grid).float()

    # -- steps ----------------------------------------------------------------------------------

    def _grid(self, unit_pixels: Tensor) -> tuple[int, int]:
        """The nearest whole number of patches on each side."""
        height, width = unit_pixels.shape[-2:]
        if min(height, width) < self.patch:
            raise WordmaskError(
                f"got a picture of {height} x {width} pixels for {self.source}; at least one patch "
                f"of {self.patch} x {self.patch} is needed"
            )
        return max(round(height / self.patch), 1), max(round(width / self.patch), 1)

    def _extra(self, pixels: Tensor) -> dict[str, Any]:
        """What blocks take besides tokens."""
        if self.family.position != "rotary":
            return {}
        return {"position_embeddings": self.model.rope_embeddings(pixels)}

    @property
    def _stem(self) -> Any:
        """The convolution, or RADIO's linear map, that makes patches."""
        return next(m for m in self.model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))

    @property
    def _blocks(self) -> Any:
        return next(m for m in self.model.modules() if isinstance(m, nn.ModuleList))

    def _prepare(self, unit_pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Resize to whole patches and normalise."""
        pixels = unit_pixels.to(self.device, torch.float32)
        size = grid[0] * self.patch, grid[1] * self.patch
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        shift, scale = pixels.new_tensor([self.mean, self.std])[..., None, None]
        return ((pixels - shift) / scale).to(self.dtype)

    def _embed(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Class token, registers if any, patches with their position embedding; (B, T, D)."""
        parts = self.model.embeddings
        if self.family.position == "own":
            return parts(self.model.input_conditioner(pixels))
        x = self._stem(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([parts.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.family.position != "rotary":
            table = parts.position_embeddings[0]
            x = x + position_embedding(table, grid, self.family.position)
        if hasattr(parts, "register_tokens"):
            registers = parts.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        return x

    def _run(self, x: Tensor, facet: Facet, extra: dict[str, Any]) -> Tensor:
        """Run all blocks; for a facet but "output", all but the last and that facet of the last."""
        for block in self._blocks[:-1]:
            x = _first(block(x, **extra))
        return _run_last(self._blocks[-1], x, facet, extra)

    def _fixed_size(self, unit_pixels: Tensor, facet: Facet) -> Tensor:
        """SAM: resize the long side to its size, then normalise and pad with zeros."""
        full = self.model.config.image_size // self.patch
        height, width = unit_pixels.shape[-2:]
        longest = max(height, width)
        h, w = (max(round(full * side / longest), 1) for side in (height, width))
        pixels = self._prepare(unit_pixels, (h, w))
        pad = (full - w) * self.patch, (full - h) * self.patch
        x = self.model.patch_embed(F.pad(pixels, (0, pad[0], 0, pad[1])))  # (B, 64, 64, D)
        if self.model.pos_embed is not None:
            x = x + self.model.pos_embed
        x = self._run(x, facet, {})
        check_finite(x, f"the features of {self.source}", self.dtype)
        x = self.model.neck(x) if facet == "output" else x.permute(0, 3, 1, 2)
        return x[:, :, :h, :w].float()


class DiffusionVfm:
    """Stable Diffusion as a VFM (ProxyCLIP, supplement A): features of the ninth block of its UNet.

    The picture is enlarged by 2, the time step is 0. Interface as for `VfmTower`.
    """

    def __init__(self, tower: DiffusionTower, source: str = "in memory"):
        self.tower = tower
        self.source = source

    def modules(self) -> list[nn.Module]:
        """The networks that it uses."""
        return self.tower.modules()

    def features(self, unit_pixels: Tensor, facet: Facet = "output") -> Tensor:
        """Features (B, D, h, w), float32; `facet` must be "output"."""
        if facet != "output":
            raise WordmaskError(f'got facet={facet!r} with a diffusion model; it has "output" only')
        return self.tower.features(unit_pixels, t=0, block=9)

    def stitched(
        self, unit_pixels: Tensor, window: int, stride: int, facet: Facet = "output"
    ) -> Tensor:
        """Features of the whole picture: the UNet takes any size."""
        return self.features(unit_pixels, facet)


def load_vfm(
    source: Any,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> VfmTower | DiffusionVfm:
    """Load a vision foundation model.

    Args:
        source: a hub id, a local folder, a name `wordmask/...`, `FILE.py:FUNCTION`, or a module in
            memory, which is used as it is, with ImageNet's normalisation. A Stable Diffusion
            pipeline, its id or its folder gives a `DiffusionVfm`.
        device, dtype: of the loaded model; None: the CPU, float32.
        cache_dir, local_files_only, revision: as for `load_clip`.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached, another kind of model, or
            one that does not fit into memory, which is checked before its weights are read.
    """
    from wordmask.towers.diffusion import INDEX, MIRRORS, WITHDRAWN, load_diffusion

    device, dtype = device or torch.device("cpu"), dtype or torch.float32
    source = read_source(at_revision(source, revision), device, dtype)
    if isinstance(source, nn.Module):
        return VfmTower(source, source=type(source).__name__)
    if hasattr(source, "unet"):
        return DiffusionVfm(load_diffusion(source))
    if not isinstance(source, (str, os.PathLike)):
        raise _wrong_kind(type(source).__name__, "memory")
    name = os.fspath(source)
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    try:
        if name in (WITHDRAWN, *MIRRORS) or (Path(name).expanduser() / INDEX).is_file():
            raise _PipelineError("a diffusion pipeline")
        return load_from(
            name,
            lambda folder: _load(name, folder, device, dtype),
            Files(),
            kind="the VFM",
            index=("config.json", INDEX),
            check=lambda folder: _check(name, folder, device, dtype),
            half=dtype.itemsize == 2,
            **where,
        )
    except _PipelineError:
        return DiffusionVfm(load_diffusion(source, device=device, dtype=dtype, **where), name)


class _PipelineError(WordmaskError):
    """The source is a diffusion pipeline and not one network."""


def _check(source: str, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse another kind of network, or one that does not fit into memory."""
    import transformers

    if not (folder / "config.json").is_file():
        raise _PipelineError("a diffusion pipeline")
    family = family_of(model_type(folder, source), source)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    network = getattr(transformers, family.module)
    with torch.device("meta"):
        bare = network(getattr(config, "vision_config", config), **_arguments(family))
    parameters = sum(p.numel() for p in bare.parameters())
    needed = int(1.1 * parameters * dtype.itemsize)
    check_memory(source, needed, device, _advice(source, parameters, device, dtype))


def _load(source: str, folder: Path, device: torch.device, dtype: torch.dtype) -> VfmTower:
    import transformers

    family = family_of(model_type(folder, source), source)
    model, report = getattr(transformers, family.module).from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=False,
        output_loading_info=True,
        **_arguments(family),
        **weight_settings(folder, TRANSFORMERS, dtype),
    )
    missing = [key for key in report["missing_keys"] if "mask_token" not in key]
    check_complete(missing, source, family.title)
    mean, std = read_normalisation(folder, IMAGENET)
    tower = VfmTower(model.eval().to(device), mean=mean, std=std, source=source)
    loaded_from(tower.model, folder)
    return tower


def _arguments(family: VfmFamily) -> dict[str, Any]:
    """Further arguments of a family's class."""
    return {"add_pooling_layer": False} if family.module == "ViTModel" else {}


def family_of(kind: str, source: str) -> VfmFamily:
    """The family of a `model_type`."""
    if kind not in FAMILIES:
        raise _wrong_kind(kind, source)
    return FAMILIES[kind]


def _wrong_kind(kind: str, source: str) -> WordmaskError:
    """The error for a model that is none of `FAMILIES`."""
    titles = ", ".join(dict.fromkeys(family.title for family in FAMILIES.values()))
    return WordmaskError(
        f"got a {kind!r} model from {source} as the VFM; give one of {titles}, or a Stable "
        "Diffusion pipeline"
    )


def _advice(source: str, parameters: int, device: torch.device, dtype: torch.dtype) -> str:
    """Suggest networks that fit in place of one that does not."""
    room = (free_memory(device) or 0) / 1.1
    fits = [f"{source} in bfloat16"] if 2 * parameters <= room and dtype.itemsize > 2 else []
    for name, millions in sorted(SIZES.items(), key=lambda item: -item[1]):
        if 1e6 * millions * dtype.itemsize <= room and 1e6 * millions < parameters:
            fits.append(f"{name} ({1e6 * millions * dtype.itemsize / 2**30:.2f} GiB)")
            break
    return f"{' or '.join(fits)} would fit" if fits else "free some memory"


class _Given(nn.Module):
    """In place of a layer whose output is known."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.given = output

    def forward(self, x: Tensor) -> Tensor:
        return self.given


def _norm(block: nn.Module) -> nn.Module:
    """The norm before a block's attention."""
    return next(m for name, m in block.named_children() if "norm" in name)


def _run_last(block: nn.Module, x: Tensor, facet: Facet, extra: dict[str, Any]) -> Tensor:
    """The last block, or that facet of it."""
    if facet == "output":
        return _first(block(x, **extra))
    x = _norm(block)(x)
    return torch.stack([_projected(block, x, part) for part in facet.split("+")]).sum(0)


def _projected(block: nn.Module, x: Tensor, facet: str) -> Tensor:
    """Queries, keys or values of a block's attention, from its normed tokens x."""
    module = next(
        m for n, m in block.named_modules() if PROJECTIONS.get(n.split(".")[-1]) in (facet, "all")
    )
    projected: Tensor = module(x)
    if projected.shape[-1] == 3 * x.shape[-1]:
        projected = projected.chunk(3, dim=-1)[("queries", "keys", "values").index(facet)]
    return projected


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
