"""Pictures to objects with a confidence, as annotation tools take them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wordmask.extras import need
from wordmask.regions import Region, polygons, regions
from wordmask.segmentation import Segmentation
from wordmask.towers.auxiliary import DEFAULT_CLIP
from wordmask.vocabulary import Background, Vocabulary

if TYPE_CHECKING:
    from wordmask.scoring import Scored
    from wordmask.segmenter import Segmenter


class Found(NamedTuple):
    """A connected part of a class, and how sure the method is of it, 0 to 1.

    The confidence is the mean over the part of the probability of its class, or for methods that
    give class maps of the share of its class in the maps of all.
    """

    region: Region
    confidence: float


class Labeller:
    """A segmenter with its words, for a tool that gives one picture after the other.

    Args:
        words: `"cat; sofa, couch"`, a file of words, or whatever `Vocabulary` takes.
        model, method, refine, device, networks: as for `Segmenter.from_pretrained`; a method may
            have its variant after a colon.
        background: as on the command line: "auto", "none", "names:sky;wall", "threshold:0.5".
        min_area: parts with fewer pixels are left out.
        segmenter: one that is loaded already, in place of model, method, refine and device.

    Raises:
        WordmaskError: words, a background or a network that cannot be used.
    """

    def __init__(
        self,
        words: str | Path | Vocabulary | Iterable[Any] | Mapping[str, Any],
        model: str = DEFAULT_CLIP,
        method: str = "cliper",
        *,
        background: str = "auto",
        refine: str | None = None,
        device: str | None = None,
        networks: Mapping[str, str] | None = None,
        min_area: int = 1,
        segmenter: Segmenter | None = None,
    ):
        from wordmask.segmenter import Segmenter

        self.words = read_words(words)
        strategy = Background.parse(background)
        strategy.check(self.words)
        self.segmenter = segmenter or Segmenter.from_pretrained(
            model, method, device=device, refine=refine, networks=networks
        )
        self.min_area = min_area
        self.texts = self.segmenter.encode_text(self.words, strategy)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in order; label i is `names[i - 1]`."""
        return self.texts.names

    def __call__(self, image: Any) -> tuple[Segmentation, list[Found]]:
        """Segment a picture (a path, a PIL image or a uint8 array (H, W, 3))."""
        scored = self.segmenter.score(self.segmenter.encode(image), self.texts)
        return parts_of(scored, self.min_area)


def parts_of(scored: Scored, min_area: int = 1) -> tuple[Segmentation, list[Found]]:
    """The labels of a picture, and the connected parts of each class in them."""
    result = scored.segmentation()
    sure = scored.confidence(result.labels) if scored.rule.gives_probabilities else None
    return result, find(result, sure, min_area)


def find(result: Segmentation, sure: np.ndarray | None, min_area: int = 1) -> list[Found]:
    """The connected parts of each class.

    sure: the probability (H, W) of each pixel's label; None: the method gives class maps.
    """
    maps = result.scores
    assert maps is not None
    if sure is None:
        maps = np.maximum(maps, 0)
        maps = maps / np.maximum(maps.sum(0), 1e-12)
    found = []
    for region in regions(result.labels, result.names, maps, components=True, min_area=min_area):
        x0, y0, x1, y1 = region.box
        confidence = region.score or 0.0
        if sure is not None:
            confidence = float(sure[y0:y1, x0:x1][region.pixels].mean(dtype=float))
        found.append(Found(region, min(max(confidence, 0.0), 1.0)))
    return found


def read_words(given: Any) -> Vocabulary:
    """Words as text (`"cat; sofa, couch"`), as the path of a file that exists, or as a list."""
    if isinstance(given, os.PathLike) or (isinstance(given, str) and _is_file(given)):
        return Vocabulary.from_file(Path(given))
    return Vocabulary.parse(given) if isinstance(given, str) else Vocabulary.of(given)


def _is_file(text: str) -> bool:
    return text.endswith((".txt", ".json")) and Path(text).is_file()


def outlines(region: Region) -> list[np.ndarray]:
    """Exact outlines (N, 2) of a region as x, y in the picture; holes are joined by a cut."""
    return [part.ring() + region.box[:2] for part in polygons(region.pixels)]


def simplify(ring: np.ndarray, tolerance: float, extra: str) -> np.ndarray:
    """An outline (N, 2) with few points, at most `tolerance` pixels away (Douglas and Peucker).

    extra: that of the tool, which installs scikit-image.

    Raises:
        WordmaskError: scikit-image is not installed.
    """
    if not tolerance:
        return ring
    measure = need("skimage.measure", extra, "outlines with few points")
    few: np.ndarray = measure.approximate_polygon(np.concatenate([ring, ring[:1]]), tolerance)
    return few[:-1] if len(few) > 3 else ring
