"""Toybox: rendered scenes with exact masks; no file is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from wordmask.datasets.base import Benchmark, Listing, Names, Sample, register
from wordmask.datasets.reading import Target
from wordmask.toybox.scenes import NAMES, Scene, fresh_scenes, label_map


@dataclass(frozen=True, kw_only=True)
class Toybox(Benchmark):
    """Scenes of the selftest, scored over all of its words.

    Attributes:
        expected: number of scenes; change it with `dataclasses.replace`.
        seed: of the scenes, as in `wordmask selftest`.
    """

    name: str = "toybox"
    title: str = "Toybox, rendered scenes"
    expected: int = 100
    classes: int = len(NAMES)
    ignore: int | None = None
    layout: str = "nothing: scenes are rendered"
    words: str = ""
    note: str = "8 grounds and 48 looks; needs no root. For the built-in networks."
    seed: int = 0
    needs_root: ClassVar[bool] = False

    @cached_property
    def names(self) -> Mapping[str, Names]:
        """The words of the selftest, as the source `plain`."""
        return {"plain": tuple((name,) for name in NAMES)}

    def find(self, root: Path) -> Listing:
        """Render the scenes."""
        scenes = fresh_scenes(self.expected, self.seed)
        return Listing(
            tuple(
                Sample(f"scene_{index:05d}", scene.image, SceneMask(scene))
                for index, scene in enumerate(scenes)
            )
        )


@dataclass(frozen=True, eq=False)
class SceneMask:
    """A scene; call it to label its pixels."""

    scene: Scene

    def __call__(self) -> Target:
        """The labels, (H, W) uint16."""
        return label_map(self.scene, NAMES).astype(np.uint16)


register(Toybox())
