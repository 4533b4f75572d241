"""Words and a background strategy, made into the text embeddings that a method is asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import Queries
from wordmask.errors import WordmaskError
from wordmask.methods import Method
from wordmask.towers.auxiliary import Networks
from wordmask.towers.clip import ClipTower
from wordmask.towers.text import TextTower
from wordmask.vocabulary import (
    Background,
    Vocabulary,
    pick_distractors,
    scene_words,
    templates,
)


@dataclass(frozen=True)
class Asker:
    """Asks in the way of one method, with the text half of one model.

    Args:
        method: gives the templates, how synonyms are pooled, and what else it compares with.
        text: None for a model without a text half, which takes text features only.
        tower: where embeddings go, and how wide they are.
        networks: for a method with a classifier of its own.
        source: what the model is called, for messages.
    """

    method: Method
    text: TextTower | None
    tower: ClipTower
    networks: Networks
    source: str

    def ask(self, words: Any, background: Any) -> tuple[Queries, Background]:
        """See `Segmenter.queries`."""
        rows = None
        strategy = Background.none()
        if isinstance(background, Tensor):
            rows = self._check_text(background)
            strategy = Background("names")
        elif background is not None:
            strategy = Background.of(background)
        if isinstance(words, Tensor):
            if strategy.kind == "auto":
                raise WordmaskError(
                    'got words as a tensor and background "auto", which compares names; give words '
                    "as a list, or another background"
                )
            classes = list(self._check_text(words)[:, None])
            if strategy.distractors:
                rows = self._embed(strategy.distractors)
            return Queries.of(classes, rows), strategy
        vocabulary = Vocabulary.of(words)
        strategy.check(vocabulary)
        embeddings = self._embed(vocabulary.queries)
        if strategy.kind == "auto":
            stock = scene_words()
            known = self._embed(stock)
            chosen = pick_distractors(embeddings, known, vocabulary.queries, stock)
            rows = known[chosen]
        elif strategy.distractors:
            rows = self._embed(strategy.distractors)
        classes = list(embeddings.split([len(names) for names in vocabulary]))
        if self.method.pooling == "mean":
            classes = [F.normalize(x.mean(0, keepdim=True), dim=-1) for x in classes]
        queries = Queries.of(classes, rows, vocabulary.names)
        if self.method.wants_empty_text:
            queries = queries.with_empty(self._embed([""]))
        again = self.method.classifier_texts(vocabulary, self.text, self.networks)
        return replace(queries, classifier=again), strategy

    def _embed(self, names: Sequence[str]) -> Tensor:
        if self.text is None:
            raise WordmaskError(
                f"got names, and {self.source} has no text half; give text features as a (C, E) "
                "tensor"
            )
        return self.text.encode(names, templates(self.method.templates)).to(self.tower.device)

    def _check_text(self, rows: Tensor) -> Tensor:
        width = self.tower.width
        if rows.ndim != 2 or rows.shape[1] != width or not rows.is_floating_point():
            raise WordmaskError(
                f"got text features of shape {tuple(rows.shape)}, {rows.dtype}; "
                f"this model needs float (C, {width})"
            )
        if not len(rows):
            raise WordmaskError("got no text feature; give at least one class")
        if not torch.isfinite(rows).all():
            raise WordmaskError("got text features that are NaN or infinite")
        return rows.to(self.tower.device, torch.float32)
