"""Replicas of DINO, DINOv2, DINOv3, SAM and SAM 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamModel,
    ViTConfig,
    ViTModel,
)

from replicas.files import saved_tensors, write_json, write_weights
from tiny import tiny_sam
from tiny_families import randomise

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_normalize": True, "do_resize": True, "resample": 3}


class Vfm(NamedTuple):
    """Facts of a repository: model type, patch, side of a picture, weight files, processor."""

    kind: str
    patch: int
    side: int
    weights: tuple[str, ...]
    preprocessor: dict[str, Any]


VFMS = {
    "facebook/dino-vitb8": Vfm(
        *("vit", 8, 224, ("pytorch_model.bin", "tf_model.h5")),
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224},
    ),
    "facebook/dino-vits16": Vfm(
        *("vit", 16, 224, ("pytorch_model.bin", "model.safetensors", "tf_model.h5")),
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224},
    ),
    "facebook/dinov2-base": Vfm(
        *("dinov2", 14, 518, ("pytorch_model.bin", "model.safetensors")),
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}},
    ),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": Vfm(
        *("dinov3_vit", 16, 224, ("model.safetensors",)),
        {"image_processor_type": "DINOv3ViTImageProcessorFast", "do_rescale": True},
    ),
}
MODELS = {
    "vit": (ViTConfig, ViTModel),
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov3_vit": (DINOv3ViTConfig, DINOv3ViTModel),
}
OWN = {  # keys of each configuration besides the sizes
    "vit": {"intermediate_size": 192, "layer_norm_eps": 1e-12, "qkv_bias": True},
    "dinov2": {
        "apply_layernorm": True,
        "drop_path_rate": 0.0,
        "layer_norm_eps": 1e-06,
        "layerscale_value": 1.0,
        "mlp_ratio": 4,
        "out_features": ["stage2"],
        "out_indices": [2],
        "reshape_hidden_states": True,
        "stage_names": ["stem", "stage1", "stage2"],
        "use_swiglu_ffn": False,
    },
    "dinov3_vit": {
        "drop_path_rate": 0.0,
        "intermediate_size": 192,
        "key_bias": False,
        "layer_norm_eps": 1e-05,
        "layerscale_value": 1.0,
        "num_register_tokens": 4,
        "pos_embed_rescale": 2.0,
        "query_bias": True,
        "rope_theta": 100.0,
        "use_gated_mlp": False,
        "value_bias": True,
    },
}


def build_vfm(name: str, folder: Path, formats: tuple[str, ...]) -> Any:
    facts = VFMS[name]
    make_config, make = MODELS[facts.kind]
    config = {
        "architectures": [make.__name__],
        "hidden_act": "gelu",
        "hidden_size": 48,
        "image_size": facts.side,
        "initializer_range": 0.02,
        "model_type": facts.kind,
        "num_attention_heads": 3,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": facts.patch,
        "torch_dtype": "float32",
        "transformers_version": "4.32.0.dev0",
        **OWN[facts.kind],
    }
    write_json(folder / "config.json", config)
    plain = {"add_pooling_layer": False} if facts.kind == "vit" else {}
    model = randomise(make(make_config.from_dict(config), **plain), seed=facts.patch)
    write_weights(folder, saved_tensors(model), facts.weights, formats)
    write_json(folder / "preprocessor_config.json", {**IMAGENET, **STEPS, **facts.preprocessor})
    return model


SAMS = {
    "facebook/sam-vit-base": ("pytorch_model.bin", "model.safetensors", "tf_model.h5"),
    "facebook/sam2.1-hiera-tiny": ("model.safetensors", "sam2.1_hiera_tiny.pt"),
}


def build_sam(name: str, folder: Path, formats: tuple[str, ...]) -> SamModel | Sam2Model:
    """SAM's parts have an empty model type; SAM 2's weights are those of the video model."""
    first = "sam2" not in name
    model = tiny_sam(1 if first else 2)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    if first:
        for key in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
            config[key]["model_type"] = ""
        tensors = saved_tensors(model)
        shared = "shared_image_embedding.positional_embedding"
        tensors["prompt_encoder.shared_embedding.positional_embedding"] = tensors[shared].clone()
    else:
        sizes = {"hidden_size": 32, "num_layers": 1, "feed_forward_hidden_size": 32}
        memory = {f"memory_attention_{key}": value for key, value in sizes.items()}
        memory |= {"memory_encoder_hidden_size": 32, "memory_encoder_output_channels": 8}
        memory |= {"memory_fuser_embed_dim": 32, "memory_fuser_intermediate_dim": 32}
        memory |= {"mask_downsampler_embed_dim": 32, "image_size": 64, "model_type": "sam2_video"}
        config |= {**memory, "architectures": ["Sam2VideoModel"]}
        with torch.random.fork_rng(devices=[]):
            video = Sam2VideoModel(Sam2VideoConfig.from_dict(config))
        tensors = {**saved_tensors(video), **saved_tensors(model)}
        write_json(folder / "processor_config.json", {"processor_class": "Sam2VideoProcessor"})
        write_json(folder / "video_preprocessor_config.json", {**IMAGENET, **STEPS})
    write_json(folder / "config.json", config)
    write_weights(folder, tensors, SAMS[name], formats)
    kind = "SamImageProcessor" if first else "Sam2ImageProcessorFast"
    size = {"size": {"longest_edge": 1024}} if first else {"size": {"height": 64, "width": 64}}
    processor = {**IMAGENET, **STEPS, **size, "image_processor_type": kind}
    write_json(folder / "preprocessor_config.json", processor)
    return model
