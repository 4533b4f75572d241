"""Words and a background strategy as text embeddings, with which pictures are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError, unknown
from wordmask.vocabulary import (
    NEGATIVES,
    Background,
    Vocabulary,
    as_list,
    negative_candidates,
    pick_distractors,
    pick_negatives,
    scene_words,
    templates,
)

if TYPE_CHECKING:
    from wordmask.towers.text import TextTower


@dataclass(frozen=True, eq=False)
class TextQueries:
    """Text embeddings and the class that each belongs to.

    Attributes:
        embeddings: (Q, E) unit rows, float32: the names of all classes, then background names.
        owner: (Q,) class index of each row, 0..C-1; C marks a background name.
        names: one name for each class.
        strategy: how pixels that show none of the classes are found.
        vocabulary: the words; None if embeddings were given.
        known: (C,) bool, the classes that are known to be in the picture; None: nothing is known.
    """

    embeddings: Tensor
    owner: Tensor
    names: tuple[str, ...]
    strategy: Background = Background("none")  # noqa: RUF009 (frozen)
    vocabulary: Vocabulary | None = None
    known: Tensor | None = None

    @classmethod
    def of(
        cls,
        classes: Sequence[Tensor],
        background: Tensor | None = None,
        names: Sequence[str] | None = None,
        strategy: Background | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> TextQueries:
        """Join per-class embeddings (names_c, E) and background embeddings (K, E)."""
        rows = [*classes] + ([] if background is None else [background])
        owner = torch.cat([torch.full((len(x),), i) for i, x in enumerate(rows)])
        embeddings = F.normalize(torch.cat(rows).float(), dim=-1)
        labels = tuple(names) if names else tuple(f"class {i + 1}" for i in range(len(classes)))
        rule = strategy or Background("none" if background is None else "names")
        return cls(embeddings, owner.to(embeddings.device), labels, rule, vocabulary)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:5]) + (", ..." if self.classes > 5 else "")
        own, others = len(self.foreground), len(self.background)
        return (
            f"TextQueries({self.classes} {'class' if self.classes == 1 else 'classes'}: {shown}; "
            f"{own} embeddings of {self.embeddings.shape[1]} numbers and {others} of the "
            f"background, {self.strategy.kind})"
        )

    @property
    def classes(self) -> int:
        """C, without the background."""
        return len(self.names)

    @property
    def foreground(self) -> Tensor:
        """The rows that belong to a class."""
        return self.embeddings[self.owner < self.classes]

    @property
    def background(self) -> Tensor:
        """The rows of background names, (K, E); K may be 0."""
        return self.embeddings[self.owner == self.classes]

    def keep(self, classes: Sequence[int]) -> TextQueries:
        """The same with these classes alone (increasing indices); the background stays."""
        kept = torch.as_tensor([*classes, self.classes], device=self.owner.device)
        rows = torch.isin(self.owner, kept)
        words = self.vocabulary and Vocabulary([self.vocabulary.classes[i] for i in classes])
        return dataclasses.replace(
            self,
            embeddings=self.embeddings[rows],
            owner=torch.searchsorted(kept, self.owner[rows]),
            names=tuple(self.names[i] for i in classes),
            vocabulary=words,
        )

    def select(self, image_labels: Sequence[str | int]) -> Tensor:
        """Return which classes are among image-level labels (names or numbers from 0), (C,) bool.

        Raises:
            WordmaskError: a name that is not a class.
        """
        if isinstance(image_labels, str):
            raise WordmaskError(
                f"got {image_labels!r} as image-level labels; give a list of names for each "
                f"picture, as in {as_list(image_labels)}"
            )
        chosen = torch.zeros(self.classes, dtype=torch.bool)
        for item in image_labels:
            if isinstance(item, str) and item in self.names:
                chosen[self.names.index(item)] = True
            elif isinstance(item, int) and 0 <= item < self.classes:
                chosen[item] = True
            else:
                raise unknown("image-level label", str(item), self.names)
        return chosen

    def among(self, image_labels: Sequence[str | int] | None) -> TextQueries:
        """The same texts for a picture with image-level labels, as `select` takes them."""
        if image_labels is None:
            return self
        return dataclasses.replace(self, known=self.select(image_labels))

    def pool_foreground(self, scores: Tensor, dim: int) -> Tensor:
        """Maximum over the names of each class of scores that hold foreground rows only."""
        return self._pool(scores, dim, self.owner[self.owner < self.classes], self.classes)

    def pool(self, scores: Tensor, dim: int) -> Tensor:
        """Maximum over the names of each class along `dim`, then over background names if any."""
        return self._pool(scores, dim, self.owner, self.classes + bool(len(self.background)))

    @staticmethod
    def _pool(scores: Tensor, dim: int, owner: Tensor, size: int) -> Tensor:
        if scores.shape[dim] == size:
            return scores
        shape = list(scores.shape)
        shape[dim] = size
        view = [1] * scores.ndim
        view[dim] = -1
        index = owner.view(view).expand_as(scores)
        pooled = scores.new_full(shape, -torch.inf)
        return pooled.scatter_reduce(dim, index, scores, "amax")


def are_features(words: Any) -> bool:
    """Whether words are given as text features: a tensor, or tensors by the names of classes."""
    if isinstance(words, Mapping):
        return any(isinstance(value, Tensor) for value in words.values())
    return isinstance(words, Tensor)


@dataclass(frozen=True)
class TextEncoder:
    """Encodes words as `TextQueries` for one method, with the text encoder of one model.

    Args:
        text: None for a model without a text encoder, which takes text features only.
        templates, pooling: as in `Method`.
        width: E, the width of text features.
        device: device of the embeddings.
        source: the name of the model in messages.
    """

    text: TextTower | None
    templates: str | tuple[str, ...]
    pooling: str
    width: int
    device: torch.device
    source: str

    def encode(self, words: Any, background: Any = None) -> TextQueries:
        """See `Segmenter.encode_text`."""
        rows = None
        strategy = Background.none()
        if isinstance(background, Tensor):
            rows = self._check(background)
            strategy = Background("names")
        elif background is not None:
            strategy = Background.of(background)
        if are_features(words):
            if strategy.kind == "auto":
                raise WordmaskError(
                    'got words as a tensor and background "auto", which compares names; give words '
                    "as a list, or another background"
                )
            names, classes = self._features(words)
            if strategy.kind == "negatives":
                strategy, rows = self._negatives(strategy, torch.cat(classes))
            elif strategy.distractors:
                rows = self._embed(strategy.distractors)
            return TextQueries.of(classes, rows, names, strategy)
        vocabulary = Vocabulary.of(words)
        strategy.check(vocabulary)
        embeddings = self._embed(vocabulary.queries)
        if strategy.kind == "auto":
            stock = scene_words()
            known = self._embed(stock)
            chosen = pick_distractors(embeddings, known, vocabulary.queries, stock)
            rows = known[chosen]
        elif strategy.kind == "negatives":
            strategy, rows = self._negatives(strategy, embeddings)
        elif strategy.distractors:
            rows = self._embed(strategy.distractors)
        classes = list(embeddings.split([len(names) for names in vocabulary]))
        if self.pooling == "mean":
            classes = [F.normalize(x.mean(0, keepdim=True), dim=-1) for x in classes]
        return TextQueries.of(classes, rows, vocabulary.names, strategy, vocabulary)

    def _features(self, words: Any) -> tuple[Sequence[str] | None, list[Tensor]]:
        """The names of classes, None if they have none, and the rows (names_c, E) of each."""
        if isinstance(words, Tensor):
            return None, list(self._check(words)[:, None])
        for name, rows in words.items():
            if not isinstance(rows, Tensor):
                raise WordmaskError(
                    f"got text features of some classes, but {rows!r:.40} for {name!r}; give a "
                    "tensor for each"
                )
        names = Vocabulary(list(words)).names
        classes = [self._check(x[None] if x.ndim == 1 else x) for x in words.values()]
        if self.pooling == "mean":
            classes = [F.normalize(x, dim=-1).mean(0, keepdim=True) for x in classes]
        return names, classes

    def _negatives(self, strategy: Background, words: Tensor) -> tuple[Background, Tensor]:
        """The strategy with the names that it chose, and their embeddings."""
        candidates = negative_candidates()
        known = self._embed(candidates)
        chosen = pick_negatives(words, known, strategy.count or NEGATIVES)
        names = tuple(candidates[i] for i in chosen)
        return dataclasses.replace(strategy, distractors=names), known[chosen]

    def _embed(self, names: Sequence[str]) -> Tensor:
        if self.text is None:
            raise WordmaskError(
                f"got names, but {self.source} has no text encoder; give text features as a (C, E) "
                "tensor"
            )
        return self.text.encode(names, templates(self.templates)).to(self.device)

    def _check(self, rows: Tensor) -> Tensor:
        if rows.ndim != 2 or rows.shape[1] != self.width or not rows.is_floating_point():
            raise WordmaskError(
                f"got text features of shape {tuple(rows.shape)}, {rows.dtype}; "
                f"this model needs float (C, {self.width})"
            )
        if not len(rows):
            raise WordmaskError("got no text feature; give at least one class")
        if not torch.isfinite(rows).all():
            raise WordmaskError("got text features that are NaN or infinite")
        return rows.to(self.device, torch.float32)
