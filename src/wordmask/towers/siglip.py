"""SigLIP and SigLIP 2 of fixed sizes (Zhai et al., ICCV 2023; Tschannen et al., 2025).

There is no class token, T = h*w. A picture's embedding comes from a pooling head in which one
learned query attends to all patches; a patch's dense feature is the output of that head if the
query attended to this patch alone, as MaskCLIP does with the attention pooling of CLIP's ResNets.
SigLIP scores pairs by a sigmoid; cosines are used here as for every other family. Shapes as in
clip.py.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from wordmask.towers.clip import ClipTower
from wordmask.towers.text import TextTower


class SiglipTower(ClipTower):
    """The image encoder of a transformers `SiglipModel`."""

    default_mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    default_std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    class_tokens: int = 0
    parts: ClassVar[tuple[str, ...]] = ("vision_model.head", "text_model")
    expected: ClassVar[str] = "a SiglipModel with its pooling head, a hub id or a local folder"

    @property
    def width(self) -> int:
        """E, the width of the joint space."""
        return self.vision.config.hidden_size

    def _add_class_token(self, patches: Tensor) -> Tensor:
        return patches

    def _first_norm(self, x: Tensor) -> Tensor:
        return x

    def project(self, x: Tensor) -> Tensor:
        """Last layer norm, then the pooling head on each token (..., D); (..., E), float32."""
        head = self.vision.head
        attention = head.attention
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        x = attention.out_proj(F.linear(self.vision.post_layernorm(x), weight, bias))
        return (x + head.mlp(head.layernorm(x))).float()

    def pool(self, x: Tensor) -> Tensor:
        """The whole picture's embedding from the last tokens F^N (B, T, D): (B, E), float32."""
        return self.vision.head(self.vision.post_layernorm(x)).float()


class SiglipText(TextTower):
    """SigLIP's text encoder: lower case, padded to the full context, its last state pooled."""

    def _features(self, tokens: list[list[int]]) -> Tensor:
        model, _, tokenizer = self._require()
        context = model.config.max_position_embeddings
        return model(input_ids=self._padded(tokens, context, tokenizer.pad_token_id)).pooler_output

    def _tokenize(self, prompts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """Return text and end token of each prompt, and whether its text was cut."""
        model, _, _ = self._require()
        lowered = [prompt.lower() for prompt in prompts]
        return self._own_tokens(lowered, model.config.max_position_embeddings)

    def _width(self) -> int:
        return self._require()[0].config.projection_size
