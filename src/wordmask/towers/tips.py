"""TIPSv2 (Google DeepMind, 2026): image and text of one width, without projections.

Behind the class token stands a register, which is trained as a second class token; both come before
the patches. Blocks scale what attention and feed-forward network add (layer scale). Its authors
segment with the last block's attention replaced by the values, all else kept: `maskclip` as it is.
Their picture size and prompts are in built_in.py. Shapes as in clip.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wordmask.towers.clip import Block, ClipTower
from wordmask.towers.text import TextTower


class TipsBlock(Block):
    """A block with layer scale; its feed-forward network may be gated."""

    attention_name: ClassVar[str] = "attention"
    output_name: ClassVar[str] = "o_proj"
    norm_names: ClassVar[tuple[str, str]] = ("norm1", "norm2")

    def output(self, o: Tensor) -> Tensor:
        """Join the heads of o (B, M, T, d), project and scale, (B, T, D)."""
        return self.layer.layer_scale1(super().output(o))

    def feed_forward(self, x: Tensor) -> Tensor:
        """FFN(LN(x)) scaled, without the residual, (B, T, D)."""
        return self.layer.layer_scale2(super().feed_forward(x))


class TipsTower(ClipTower):
    """The image encoder of a transformers `Tipsv2Model`; pixels in [0, 1] as they are."""

    default_mean: ClassVar[tuple[float, ...]] = (0.0, 0.0, 0.0)
    default_std: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)
    block_type: ClassVar[type[Block]] = TipsBlock
    parts: ClassVar[tuple[str, ...]] = ("vision_model", "text_model")
    expected: ClassVar[str] = "a Tipsv2Model, a hub id or a local folder"

    def __init__(self, model: nn.Module, **settings: Any):
        super().__init__(model, **settings)
        self.class_tokens = 1 + self.vision.config.num_register_tokens

    @property
    def width(self) -> int:
        """E, the width of the joint space."""
        return self.vision.config.hidden_size

    @property
    def _layers(self) -> Any:
        return self.vision.encoder.layer

    @property
    def _stem(self) -> Any:
        return self.vision.embeddings.patch_embeddings.projection

    def embed(self, pixels: Tensor, position: str = "bilinear_antialias") -> Tensor:
        """F^0: class token, registers, patches; only the registers have no position; (B, T, D)."""
        x = super().embed(pixels, position)
        registers = self.vision.embeddings.register_tokens.expand(len(x), -1, -1)
        return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)

    def _add_class_token(self, patches: Tensor) -> Tensor:
        cls = self.vision.embeddings.cls_token.expand(len(patches), -1, -1)
        return torch.cat([cls, patches], dim=1)

    def _positions(self) -> Tensor:
        return self.vision.embeddings.position_embeddings[0]

    def _first_norm(self, x: Tensor) -> Tensor:
        return x

    def project(self, x: Tensor) -> Tensor:
        """The last layer norm of tokens (..., D), as float32; E = D."""
        return self.vision.layernorm(x).float()


class TipsText(TextTower):
    """TIPSv2's text encoder: no start and no end token, the mean state of a prompt's tokens."""

    ends: ClassVar[bool] = False

    def _features(self, tokens: list[list[int]]) -> Tensor:
        model, _, tokenizer = self._require()
        input_ids, mask = self._masked(tokens, tokenizer.pad_token_id)
        return model(input_ids=input_ids, attention_mask=mask).pooler_output

    def _tokenize(self, prompts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the tokens of each prompt, and whether its text was cut."""
        model, _, _ = self._require()
        return self._own_tokens(prompts, model.config.max_position_embeddings)
