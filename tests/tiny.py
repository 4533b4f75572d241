"""A small random CLIP and its tokenizer, made on the spot: no download, the same everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    EomtConfig,
    EomtForUniversalSegmentation,
    EomtImageProcessorPil,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2Model,
    Sam2VisionConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamVisionConfig,
    SwinConfig,
    ViTConfig,
    ViTModel,
)

from wordmask import Segmenter, Vocabulary
from wordmask.affinity import ByRows
from wordmask.encoding import Encoding
from wordmask.methods import Method
from wordmask.scoring import Scored
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap, Tile, Window

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [("p", "h"), ("ph", "o"), ("o", "f</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o")]
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with all 256 bytes and six merges; the end token has the highest id."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in MERGES] + [START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=77)


def tiny_clip(
    hidden_act: str = "quick_gelu",
    layers: int = 8,
    patch: int = 8,
    image_size: int = 56,
    width: int = 64,
    heads: int = 2,
    seed: int = 0,
    projection: int = 48,
    text_layers: int = 2,
    context: int = 77,
    legacy_end: bool = False,
) -> CLIPModel:
    """Build a random CLIPModel in evaluation mode.

    Biases and LayerNorm weights are random too, so that leaving one out shows, and attention logits
    have a standard deviation of about 1.5, so that attention is neither flat nor one-hot.
    `legacy_end` writes the end token id 2 of the hub's old configurations into the text config.
    """
    tokenizer = tiny_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=text_layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        hidden_act=hidden_act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=2 if legacy_end else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch,
        hidden_act=hidden_act,
    )
    with torch.random.fork_rng(devices=[]):
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)
        model = CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(100.0).log_()
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "norm" in name or "layrnorm" in name:
                parameter.copy_(1 + 0.1 * noise)
            elif "embedding" in name and "patch" not in name:
                parameter.copy_(0.5 * noise)
            else:
                gain = 1.2 if "q_proj" in name or "k_proj" in name else 0.7
                parameter.copy_(noise * gain / parameter[0].numel() ** 0.5)
    return model


def save_tiny_clip(folder: str | Path, **options: object) -> CLIPModel:
    """Write model, tokenizer and preprocessor_config.json as a hub repository holds them."""
    folder = Path(folder)
    model = tiny_clip(**options)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    size = model.config.vision_config.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    return model


def class_scores(
    segmenter: Segmenter, image: Any, words: Any, background: Any = "none"
) -> torch.Tensor:
    """Class maps (B, C, h, w) of pictures or of an `Encoding`; without distractors by default."""
    scored = segmenter.score(image, words, background)
    return torch.stack([s.class_maps() for s in (scored if isinstance(scored, list) else [scored])])


def score_map(scores: torch.Tensor, size: tuple[int, int]) -> ScoreMap:
    """Scores (R, h, w) that cover a whole picture of (H, W)."""
    return ScoreMap([Tile(scores, Window(0, 0, *size), size, (0, 0))], size)


def scored_of(
    method: Method,
    scores: torch.Tensor,
    texts: TextQueries,
    size: tuple[int, int],
    state: Any = None,
    **more: Any,
) -> Scored:
    """A picture of (H, W) with given scores (R, h, w), to be labelled by the rule of a method."""
    encoding = Encoding(scores[None], state, torch.zeros(1, 3, *size), (size,))
    return Scored(
        maps=score_map(scores, size),
        texts=texts,
        rule=method.rule(encoding, 0),
        size=size,
        patches=tuple(scores.shape[1:]),
        **more,
    )


def surgery_of_one(
    segmenter: Segmenter, image: torch.Tensor, text: torch.Tensor, empty: torch.Tensor
) -> torch.Tensor:
    """CLIP Surgery's scores (B, 1, h, w) of one text (1, E), given that of the empty prompt."""
    text_tower = SimpleNamespace(encode=lambda names, templates: empty)
    towers = replace(segmenter.towers, text=text_tower)
    texts = TextQueries.of([text], vocabulary=Vocabulary(["one"]))
    return segmenter.method.scores(towers, segmenter.encode(image), texts)


def tiny_sam(version: int = 1, seed: int = 0) -> SamModel | Sam2Model:
    """Build a random SAM (or SAM 2) that sees pictures at 64 x 64, in evaluation mode."""
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 16}
    decoder = {
        "hidden_size": 32,
        "mlp_dim": 32,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
        "iou_head_depth": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if version == 1:
            vision = SamVisionConfig(
                hidden_size=32,
                output_channels=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=64,
                patch_size=16,
                window_size=2,
                global_attn_indexes=[1],
                num_pos_feats=16,
                mlp_dim=32,
            )
            config = SamConfig(vision_config=vision, prompt_encoder_config=prompts)
            config.mask_decoder_config = SamMaskDecoderConfig(**decoder)
            model = SamModel(config)
        else:
            backbone = Sam2HieraDetConfig(
                hidden_size=8,
                image_size=[64, 64],
                blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 32, 64],
                num_attention_heads_per_stage=[1, 1, 2, 2],
                window_size_per_stage=[4, 2, 2, 2],
                global_attention_blocks=[3],
                window_positional_embedding_background_size=[4, 4],
            )
            vision = Sam2VisionConfig(
                backbone_config=backbone,
                backbone_channel_list=[64, 32, 16, 8],
                backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
                fpn_hidden_size=32,
            )
            model = Sam2Model(
                Sam2Config(
                    vision_config=vision,
                    prompt_encoder_config=prompts,
                    mask_decoder_config=decoder,
                )
            )
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "positional" not in name:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            if "output_hypernetworks" in name and "proj_out" in name:
                parameter.data.mul_(20)  # logits of a few, as trained ones have
    return model.eval()


def tiny_vfm(patch: int = 8, image_size: int = 56, seed: int = 2) -> ViTModel:
    """Build a random ViT in evaluation mode that stands in for DINO, 32 channels wide."""
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=patch,
    )
    with torch.random.fork_rng(devices=[]):
        model = ViTModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("bias") or "embeddings" in name.split(".")[-1]:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model


def tiny_panoptic(kind: str = "eomt", seed: int = 0) -> Any:
    """Build a random Mask2Former or EoMT with decided masks, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mask2former":
            backbone = SwinConfig(
                image_size=64,
                embed_dim=8,
                depths=[1, 1, 1, 1],
                num_heads=[1, 1, 2, 2],
                window_size=2,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            )
            model: Any = Mask2FormerForUniversalSegmentation(
                Mask2FormerConfig(
                    backbone_config=backbone,
                    feature_size=32,
                    mask_feature_size=32,
                    hidden_dim=32,
                    encoder_feedforward_dim=32,
                    encoder_layers=1,
                    decoder_layers=2,
                    num_attention_heads=2,
                    dim_feedforward=32,
                    num_queries=24,
                    num_labels=5,
                )
            )
        else:
            model = EomtForUniversalSegmentation(
                EomtConfig(
                    hidden_size=32,
                    num_hidden_layers=3,
                    num_attention_heads=2,
                    image_size=64,
                    num_blocks=1,
                    num_queries=8,
                    num_labels=5,
                )
            )
            for name, parameter in model.named_parameters():
                if "mask_head" in name and parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
            torch.nn.init.normal_(model.query.weight)
        torch.nn.init.normal_(model.class_predictor.weight, std=20.0)  # sure of the labels
    return model.eval()


def save_tiny_panoptic(folder: str | Path, kind: str = "eomt") -> tuple[Any, Any]:
    """Write a random Mask2Former or EoMT in the hub's format; returns it with its processor.

    It sees pictures at 64 pixels.
    """
    model = tiny_panoptic(kind)
    if kind == "eomt":
        size = {"shortest_edge": 64, "longest_edge": 64}
        processor: Any = EomtImageProcessorPil(size=size, do_pad=True)
    else:
        size = {"shortest_edge": 64, "longest_edge": 96}
        processor = Mask2FormerImageProcessorPil(size=size, size_divisor=32)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


class Dense(ByRows):
    """An attention that is a matrix (L, L), rows summing to 1."""

    def __init__(self, matrix: torch.Tensor):
        self.matrix = matrix
        self.size = len(matrix)

    def rows(self, index: slice) -> torch.Tensor:
        """See `ByRows`."""
        return self.matrix[index]
