"""BLIP (Li et al., ICML 2022): image and text encoders with a joint embedding space, as in CLIP.

Its contrastive half is used: the vision transformer, the text encoder's [CLS] state and the two
projections of `BlipForImageTextRetrieval` (ClearCLIP, supplement, Table 2). Image-grounded encoder,
decoder and matching head are not. Shapes as in clip.py.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.towers.clip import Block, ClipTower
from wordmask.towers.text import TextTower


class BlipBlock(Block):
    """A block with queries, keys and values in one linear map."""

    def _check(self) -> None:
        attention = self.layer.self_attn
        if not all(hasattr(attention, x) for x in ("qkv", "projection")):
            raise WordmaskError(
                f"got an attention module {type(attention).__name__} without qkv and projection; "
                "wordmask reads BLIP's blocks through these"
            )

    def _part(self, z: Tensor, part: int) -> Tensor:
        qkv = self.layer.self_attn.qkv
        bias = None if qkv.bias is None else qkv.bias.chunk(3)[part]
        return self._heads(F.linear(z, qkv.weight.chunk(3)[part], bias))

    def queries(self, z: Tensor) -> Tensor:
        """Q of the normed tokens z (B, T, D), as (B, M, T, d)."""
        return self._part(z, 0)

    def keys(self, z: Tensor) -> Tensor:
        """K of the normed tokens z (B, T, D), as (B, M, T, d)."""
        return self._part(z, 1)

    def values(self, z: Tensor) -> Tensor:
        """V of the normed tokens z (B, T, D), as (B, M, T, d)."""
        return self._part(z, 2)

    def output(self, o: Tensor) -> Tensor:
        """Join the heads of o (B, M, T, d) and apply the output projection, (B, T, D)."""
        return self.layer.self_attn.projection(o.transpose(1, 2).flatten(2))


class BlipTower(ClipTower):
    """The image encoder of a `BlipForImageTextRetrieval`; no layer norm before the first block."""

    block_type: ClassVar[type[Block]] = BlipBlock
    layers_are_fused: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("vision_model", "vision_proj")
    expected: ClassVar[str] = (
        "a BlipForImageTextRetrieval; other BLIP models have no trained projection to a joint space"
    )

    @property
    def width(self) -> int:
        """E, the width of the joint space."""
        return self.model.config.image_text_hidden_size

    def _positions(self) -> Tensor:
        return self.vision.embeddings.position_embedding[0]

    def _first_norm(self, x: Tensor) -> Tensor:
        return x

    def project(self, x: Tensor) -> Tensor:
        """Last layer norm and projection of tokens (..., D) to (..., E), as float32."""
        return self.model.vision_proj(self.vision.post_layernorm(x)).float()


class BlipText(TextTower):
    """BLIP's text encoder alone, without a picture: the projected state of its [CLS] token."""

    def _features(self, tokens: list[list[int]]) -> Tensor:
        model, projection, tokenizer = self._require()
        input_ids, mask = self._masked(tokens, tokenizer.pad_token_id)
        states = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return projection(states[:, 0])

    def _tokenize(self, prompts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """Return [CLS], text, [SEP] of each prompt, and whether its text was cut."""
        model, _, tokenizer = self._require()
        if None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
            raise WordmaskError("the tokenizer has no [CLS], [SEP] or [PAD] token; BLIP needs them")
        return self._own_tokens(prompts, model.config.max_position_embeddings)
