"""Pictures to begin with: rendered scenes for the built-in network, photographs for a real CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wordmask.app.engine import BUILT_IN
from wordmask.toybox import GROUNDS, render

HERE = Path(__file__).parent
SCENES = (4 * 10**9 + 81, 4 * 10**9 + 12, 4 * 10**9 + 25, 4 * 10**9 + 37)  # seeds
SIZE = 144
PHOTOGRAPHS = {
    "coffee.jpg": ("cup", "spoon", "saucer", "table, table top"),
    "chelsea.jpg": ("cat", "blanket, sofa"),
}


@dataclass(frozen=True)
class Example:
    """A picture with words that show what the network can do, and a rule of `job.RULES`."""

    picture: str
    words: tuple[str, ...]
    background: str


def examples(model: str, folder: Path) -> list[Example]:
    """The examples for a CLIP.

    folder: where scenes are written.
    """
    return scenes(folder) if model == BUILT_IN else photographs()


def scenes(folder: Path) -> list[Example]:
    """Rendered scenes, with their own words and two that they do not show."""
    found = []
    for seed in SCENES:
        path = folder / f"scene-{seed}.png"
        scene = render(seed, SIZE, things=(3, 5))
        if not path.exists():
            Image.fromarray(scene.image).save(path)
        others = [ground for ground in GROUNDS if ground not in scene.grounds][:2]
        looks = sorted({f"{thing.colour} {thing.surface}" for thing in scene.things})
        words = [", ".join(GROUNDS[ground]) for ground in scene.grounds]
        found.append(Example(str(path), (*words, *looks, *others), "none"))
    return found


def photographs() -> list[Example]:
    """The photographs of the package, or of the repository that it runs from."""
    folders = (HERE / "photographs", HERE.parents[2] / "examples")
    folder = next((one for one in folders if (one / "coffee.jpg").is_file()), None)
    if folder is None:
        return []
    return [Example(str(folder / name), words, "auto") for name, words in PHOTOGRAPHS.items()]
