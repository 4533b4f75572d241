"""Replicas of CLIP (OpenAI, LAION, MetaCLIP, TinyCLIP), BLIP and SigLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
)

from replicas.files import (
    clip_vocabulary,
    position_ids,
    saved_tensors,
    sentencepiece_model,
    write_clip_tokenizer,
    write_json,
    write_weights,
)
from tiny_families import WORDS, randomise

BLIP = "Salesforce/blip-itm-base-coco"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BIN, SAFE, TF, FLAX = "pytorch_model.bin", "model.safetensors", "tf_model.h5", "flax_model.msgpack"
OPEN_CLIP = ("open_clip_pytorch_model.bin", "open_clip_config.json")
OLD = {  # what every configuration of 2021 and 2022 repeats in its parts
    **dict.fromkeys(
        [
            *("architectures", "bad_words_ids", "cross_attention_hidden_size", "torch_dtype"),
            *("decoder_start_token_id", "finetuning_task", "forced_bos_token_id", "prefix"),
            *("forced_eos_token_id", "problem_type", "sep_token_id", "task_specific_params"),
            *("tokenizer_class",),
        ]
    ),
    **dict.fromkeys(
        [
            *("add_cross_attention", "do_sample", "early_stopping", "gradient_checkpointing"),
            *("is_decoder", "is_encoder_decoder", "output_attentions", "output_hidden_states"),
            *("output_scores", "remove_invalid_values", "return_dict_in_generate"),
            *("tie_encoder_decoder", "torchscript", "use_bfloat16"),
        ],
        False,
    ),
    **{"_name_or_path": "", "chunk_size_feed_forward": 0, "diversity_penalty": 0.0},
    **{"encoder_no_repeat_ngram_size": 0, "length_penalty": 1.0, "max_length": 20, "min_length": 0},
    **{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}},
    **{"no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1},
    **{"pruned_heads": {}, "repetition_penalty": 1.0, "return_dict": True, "temperature": 1.0},
    **{"tie_word_embeddings": True, "top_k": 50, "top_p": 1.0, "attention_dropout": 0.0},
    **{"dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02},
    **{"transformers_version": "4.16.0.dev0"},
}


class Clip(NamedTuple):
    """Facts of a CLIP repository; widths are those of the original.

    Attributes:
        vision, text: widths of the towers.
        joint: the width of the joint space.
        patch, side: pixels of a patch and of a picture.
        weights: the weight files on the main branch.
        act: the activation.
        style: "old" repeats everything in each part, "dicts" has text_config_dict and
            vision_config_dict that override the parts, "new" leaves defaults out.
    """

    vision: int
    text: int
    joint: int
    patch: int
    side: int
    weights: tuple[str, ...]
    act: str = "quick_gelu"
    style: str = "old"


CLIPS = {
    "openai/clip-vit-base-patch32": Clip(768, 512, 512, 32, 224, (BIN, TF, FLAX)),
    "openai/clip-vit-base-patch16": Clip(768, 512, 512, 16, 224, (BIN, TF, FLAX)),
    "openai/clip-vit-large-patch14": Clip(1024, 768, 768, 14, 224, (BIN, SAFE, TF, FLAX)),
    "openai/clip-vit-large-patch14-336": Clip(1024, 768, 768, 14, 336, (BIN, TF)),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": Clip(
        768, 512, 512, 32, 224, (BIN, SAFE, "open_clip_model.safetensors", *OPEN_CLIP), "gelu"
    ),
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": Clip(
        768, 512, 512, 16, 224, (BIN, "open_clip_model.safetensors", *OPEN_CLIP), "gelu"
    ),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": Clip(
        1024, 768, 768, 14, 224, (BIN, SAFE, *OPEN_CLIP), "gelu", "dicts"
    ),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": Clip(
        1280, 1024, 1024, 14, 224, (BIN, SAFE, *OPEN_CLIP), "gelu", "dicts"
    ),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": Clip(
        *(1664, 1280, 1280, 14, 224),
        (f"{BIN}.index.json", f"{SAFE}.index.json", "open_clip_config.json"),
        *("gelu", "dicts"),
    ),
    "facebook/metaclip-b16-fullcc2.5b": Clip(
        768, 512, 512, 16, 224, (BIN, SAFE), style="new"
    ),
    "wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M": Clip(
        256, 256, 512, 16, 224, (BIN, SAFE), style="new"
    ),
}  # fmt: skip


def build_clip(name: str, folder: Path, formats: tuple[str, ...]) -> CLIPModel:
    facts, words = CLIPS[name], clip_vocabulary()
    old = OLD if facts.style == "old" else {}

    def part(width: int) -> dict[str, Any]:
        width //= 16
        heads = 8 if width % 16 else width // 16
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 2}
        return {**sizes, "num_attention_heads": heads, "hidden_act": facts.act}

    # The parts' own projection_dim is the default 512 everywhere and means nothing; nor do token
    # ids 0, 2 and 1: the model then pools the highest token, which is the end.
    tokens = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": len(words)}
    common = {"layer_norm_eps": 1e-05, "projection_dim": 512}
    text = {**tokens, "max_position_embeddings": 77, "model_type": "clip_text_model", **common}
    sizes = {"image_size": facts.side, "patch_size": facts.patch}
    vision = {**sizes, "model_type": "clip_vision_model", **common}
    config = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": facts.joint // 16,
        "text_config": {**old, **text, **part(facts.text)},
        "torch_dtype": "float32",
        "transformers_version": None if old else "4.30.0.dev0",
        "vision_config": {**old, **vision, **part(facts.vision)},
    }
    if facts.style == "old":
        config |= {"text_config_dict": None, "vision_config_dict": None}
    elif facts.style == "dicts":  # these win; at full size the end token is CLIP's own by default
        own = {"vocab_size": len(words), "bos_token_id": words["<|startoftext|>"]}
        own["eos_token_id"] = words["<|endoftext|>"]
        config["text_config_dict"] = {**part(facts.text), **own}
        config["vision_config_dict"] = {**part(facts.vision), **sizes}
        for key in ("text_config", "vision_config"):
            config[key] |= {"hidden_act": "quick_gelu", "_name_or_path": ""}
    write_json(folder / "config.json", config)
    model = randomise(CLIPModel(CLIPConfig.from_dict(config)), seed=len(name))
    tensors = saved_tensors(model)
    if facts.style == "old":
        tensors["text_model.embeddings.position_ids"] = position_ids(77)
        tensors["vision_model.embeddings.position_ids"] = position_ids(
            (facts.side // facts.patch) ** 2 + 1
        )
    write_weights(folder, tensors, facts.weights, formats)
    length = {"model_max_length": 77} if facts.style != "old" else {}
    write_clip_tokenizer(folder, **length, tokenizer_class="CLIPTokenizer")
    write_json(folder / "preprocessor_config.json", _clip_preprocessor(facts))
    return model


def _clip_preprocessor(facts: Clip) -> dict[str, Any]:
    size: dict[str, Any] = {"crop_size": facts.side, "size": facts.side}
    kind = {"feature_extractor_type": "CLIPFeatureExtractor"}
    if facts.style == "new":
        sides = {"height": facts.side, "width": facts.side}
        size = {"crop_size": sides, "size": {"shortest_edge": facts.side}}
        kind |= {"image_processor_type": "CLIPImageProcessor"}
    steps = {"do_center_crop": True, "do_normalize": True, "do_resize": True}
    return {**size, **steps, **kind, "image_mean": MEAN, "image_std": STD, "resample": 3}


def build_blip(name: str, folder: Path, formats: tuple[str, ...]) -> BlipForImageTextRetrieval:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 3}
    sizes |= {"num_hidden_layers": 2, "projection_dim": 48}
    text = {"encoder_hidden_size": 48, "max_position_embeddings": 512, "is_decoder": True}
    text |= {"model_type": "blip_text_model", "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    text |= {"eos_token_id": 2, "bos_token_id": len(tokens), "sep_token_id": 3, "pad_token_id": 0}
    config = {
        "architectures": ["BlipForImageTextRetrieval"],
        "image_text_hidden_size": 16,
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "blip",
        "projection_dim": 512,
        # two tokens more than the tokenizer has, [DEC] and [ENC]
        "text_config": {**text, **sizes, "vocab_size": len(tokens) + 2},
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": {
            **sizes,
            "model_type": "blip_vision_model",
            "image_size": 384,
            "patch_size": 16,
            "layer_norm_eps": 1e-05,
        },
    }
    write_json(folder / "config.json", config)
    model = randomise(BlipForImageTextRetrieval(BlipConfig.from_dict(config)), seed=1)
    tensors = saved_tensors(model)
    tensors["text_encoder.embeddings.position_ids"] = position_ids(512)
    write_weights(folder, tensors, (BIN, SAFE, TF), formats)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{x.lower()}_token": f"[{x}]" for x in ("CLS", "MASK", "PAD", "SEP", "UNK")}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    write_json(folder / "tokenizer_config.json", {**special, **settings})
    normalise = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
    kind = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    size = {"do_resize": True, "size": {"height": 384, "width": 384}, "resample": 3}
    write_json(folder / "preprocessor_config.json", {**normalise, **kind, **size})
    return model


SIGLIPS = {"google/siglip-base-patch16-224": 1, "google/siglip2-base-patch16-224": 2}


def build_siglip(name: str, folder: Path, formats: tuple[str, ...]) -> SiglipModel:
    """SigLIP 1 has a SentencePiece model alone, SigLIP 2 Gemma's tokenizer.json."""
    if SIGLIPS[name] == 1:
        (folder / "spiece.model").write_bytes(sentencepiece_model(WORDS))
        count = 3 + len(WORDS) + 31
        special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        settings = {"do_lower_case": True, "model_max_length": 64, "sp_model_kwargs": {}}
        kind = {"tokenizer_class": "SiglipTokenizer", "additional_special_tokens": []}
    else:
        tokenizer = gemma_tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer.model").write_bytes(b"not read by wordmask")
        count = tokenizer.get_vocab_size()
        special = {"bos_token": "<bos>", "eos_token": "<eos>"}
        special |= {"pad_token": "<pad>", "unk_token": "<unk>"}
        settings = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
        kind = {"tokenizer_class": "GemmaTokenizer"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**special, **settings, **kind})
    sizes = {"hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 3}
    sizes["num_hidden_layers"] = 2
    config = {
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "model_type": "siglip",
        "text_config": {
            **sizes,
            "model_type": "siglip_text_model",
            "vocab_size": count,
            "projection_size": 48,
        },
        "torch_dtype": "float32",
        "transformers_version": "4.37.0.dev0",
        "vision_config": {
            **sizes,
            "model_type": "siglip_vision_model",
            "image_size": 224,
            "patch_size": 16,
        },
    }
    write_json(folder / "config.json", config)
    model = randomise(SiglipModel(SiglipConfig.from_dict(config)), seed=SIGLIPS[name])
    write_weights(folder, saved_tensors(model), (SAFE,), formats)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True, "resample": 3}
    size = {"do_resize": True, "size": {"height": 224, "width": 224}}
    kind = {"image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor"}
    write_json(folder / "preprocessor_config.json", {**half, **size, **kind})
    return model


def gemma_tokenizer() -> Tokenizer:
    """Byte pairs that make words with and without a space before, the end token after the text."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", ".", *map(chr, range(97, 123))]
    merges = []
    for word in filter(str.isalpha, WORDS):
        merges += [(word[:i], word[i]) for i in range(1, len(word))] + [("▁", word)]
    merges = list(dict.fromkeys(merges))
    vocabulary = {name: i for i, name in enumerate([*names, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    return tokenizer
