"""Pictures whose left half is grass and whose right half is sand (an example)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from wordmask.datasets import Benchmark, Listing, Sample


@dataclass(frozen=True, kw_only=True)
class Halves(Benchmark):
    """Two pictures made on the spot."""

    name: str = "halves"
    title: str = "Halves"
    classes: int = 2
    expected: int = 2
    layout: str = "nothing: pictures are made"
    words: str = ""
    needs_root: ClassVar[bool] = False

    @cached_property
    def names(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Names of the classes by source, with synonyms."""
        return {"plain": (("grass", "lawn"), ("sand",))}

    def find(self, root: Path) -> Listing:
        """A sample has an id, a picture (or its path), and a function that returns its labels."""
        labels = np.ones((96, 96), np.uint16)
        labels[:, 48:] = 2
        image = np.where(labels[..., None] == 1, (40, 160, 60), (220, 200, 120)).astype(np.uint8)
        return Listing(tuple(Sample(f"picture_{i}", image, lambda: labels) for i in range(2)))
