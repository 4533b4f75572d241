"""A small random BLIP, SigLIP, MetaCLIP 2 and TIPSv2 with their tokenizers, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    XLMRobertaTokenizer,
)

try:
    from transformers import Tipsv2Config, Tipsv2Model, Tipsv2Tokenizer
except ImportError:  # transformers below 5.14
    Tipsv2Config = Tipsv2Model = Tipsv2Tokenizer = None

NEWER = (  # named in transformers' own code, which knows the names of their tensors
    "google/tipsv2-b14",
    "facebook/metaclip-2-worldwide-huge-quickgelu",
    "nvidia/C-RADIOv4-H",
)
WORDS = ["a", "photo", "of", "the", "cat", "dog", "red", "car", "zebra", "crossing", ".", "itap"]


def randomise(model: torch.nn.Module, seed: int) -> Any:
    """Random weights, none of them 0 or 1, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim < 2:
                parameter.copy_(0.1 * noise)
            elif "embedding" in name and "patch" not in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.eval()


def tiny_blip(
    image_size: int = 56, layers: int = 8, seed: int = 0, projection: int = 48
) -> BlipForImageTextRetrieval:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **sizes,
            "num_hidden_layers": 2,
            "vocab_size": len(blip_tokenizer()),
            "max_position_embeddings": 40,
        },
        vision_config={
            **sizes,
            "num_hidden_layers": layers,
            "image_size": image_size,
            "patch_size": 8,
        },
        image_text_hidden_size=projection,
    )
    return randomise(BlipForImageTextRetrieval(config), seed)


def tiny_siglip(image_size: int = 56, layers: int = 8, seed: int = 0, **vision: Any) -> SiglipModel:
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={
            **sizes,
            "num_hidden_layers": 2,
            "vocab_size": len(siglip_tokenizer()),
            "max_position_embeddings": 16,
        },
        vision_config={
            **sizes,
            "num_hidden_layers": layers,
            "image_size": image_size,
            "patch_size": 8,
            **vision,
        },
    )
    return randomise(SiglipModel(config), seed)


def tiny_metaclip2(image_size: int = 56, layers: int = 8, seed: int = 0) -> MetaClip2Model:
    """As released, its end token is 2."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = MetaClip2Config(
        text_config={
            **sizes,
            **tokens,
            "num_hidden_layers": 2,
            "vocab_size": len(metaclip2_tokenizer()),
            "projection_dim": 48,
            "max_position_embeddings": 20,
        },
        vision_config={
            **sizes,
            "num_hidden_layers": layers,
            "image_size": image_size,
            "patch_size": 8,
            "projection_dim": 48,
        },
        projection_dim=48,
    )
    return randomise(MetaClip2Model(config), seed)


def tiny_tips(image_size: int = 56, layers: int = 8, seed: int = 0, **vision: Any) -> Any:
    """As released, its weights are saved under the names of TIPS's own code."""
    sizes = {"hidden_size": 48, "num_attention_heads": 2}
    config = Tipsv2Config(
        text_config={
            **sizes,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "vocab_size": len(tips_tokenizer()),
            "max_position_embeddings": 24,
        },
        vision_config={
            **sizes,
            "num_hidden_layers": layers,
            "image_size": image_size,
            "patch_size": 8,
            **vision,
        },
    )
    return randomise(Tipsv2Model(config), seed)


def metaclip2_tokenizer() -> XLMRobertaTokenizer:
    """XLM-RoBERTa's unigrams: start token 0, end token 2, and words of several languages."""
    words = [*WORDS, "gato", "rojo", "猫", "▁"]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}" if word.isalpha() else word, -1.0) for word in words]
    return XLMRobertaTokenizer(vocab=[*pieces, ("猫", -2.0), ("<mask>", 0.0)])


def tips_tokenizer() -> Any:
    """TIPSv2's byte pairs in lower case, without start and end tokens; a word is one token."""
    merges = []
    for word in filter(str.isalpha, WORDS):
        parts = ["▁", *word]
        merges += [("".join(parts[:i]), parts[i]) for i in range(1, len(parts))]
    merges = list(dict.fromkeys(merges))
    tokens = ["<pad>", "<unk>", "▁", ".", *map(chr, range(97, 123)), *map("".join, merges)]
    return Tipsv2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def blip_tokenizer() -> BertTokenizer:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def siglip_tokenizer() -> PreTrainedTokenizerFast:
    """Words, and an end token behind every text, as SigLIP's tokenizers put it."""
    tokens = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def save(folder: Path, model: Any, tokenizer: Any, mean: list[float] | None = None) -> Path:
    """Write model and tokenizer as a hub repository holds them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if mean is not None:
        settings = {"image_mean": mean, "image_std": [0.2, 0.3, 0.4]}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
