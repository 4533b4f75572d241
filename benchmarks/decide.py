"""Time of making labels beside that of encoding, and peak memory with many classes.

    python benchmarks/decide.py [--classes 847] [--size 1024 2048] [--grid 64 128]
    python benchmarks/decide.py --share [--names 115] [--methods clip clearclip cliptrase]

The first makes labels of 847 classes on a picture of 2048 x 1024, whose full float map would take
6.6 GiB. Peak memory is the rise of the resident set during the call.

The second compares labels of a picture of 640 x 480, 21 classes and so many background names
(`auto` takes up to 115), with encoding it by a CLIP of random weights in the shape of ViT-B/16, and
with stretching all names to all pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from encode import make_model
from memory import measure
from wordmask import Background, Segmenter
from wordmask.encoding import Encoding
from wordmask.methods import create_method
from wordmask.scoring import Rule, Scored
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap, Tile, Window, place_windows

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=847)
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048])
    parser.add_argument("--grid", type=int, nargs=2, default=[64, 128])
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--names", type=int, default=115)
    parser.add_argument("--methods", nargs="+", default=["clip", "sclip", "clearclip", "cliptrase"])
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if arguments.share:
        share(arguments.methods, arguments.names)
        return
    classes, size, grid = arguments.classes, tuple(arguments.size), tuple(arguments.grid)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(classes, 16, generator=generator)
    texts = TextQueries.of(list(rows[:, None]), strategy=Background.threshold(0.2))
    whole = torch.rand(classes, *grid, generator=generator)
    maps = {"whole": ScoreMap([Tile(whole, Window(0, 0, *size), size, (0, 0))], size)}
    patch = size[0] // grid[0]
    windows = place_windows(*size, 28 * patch, 14 * patch)
    tiles = [
        Tile(torch.rand(classes, 28, 28, generator=generator), w, (w.height, w.width), (0, 0))
        for w in windows
    ]
    maps[f"{len(windows)} windows"] = ScoreMap(tiles, size)
    full = 4 * classes * size[0] * size[1] / 2**20
    print(f"{classes} classes at {size[1]} x {size[0]}: the full float map is {full:.0f} MiB")
    encoding = Encoding(whole[None], None, torch.zeros(1, 3, *size), (size,))
    for name, scores in maps.items():
        for method in ("sclip", "cliper"):
            rule = create_method(method)[0].rule(encoding, 0)
            scored = Scored(scores, texts, rule, size, grid)
            seconds, memory = measure(scored.labels)
            print(f"{method:8} {name:12} {seconds:6.1f} s  peak {memory:6.0f} MiB", flush=True)


def share(methods: list[str], names: int) -> None:
    """Print CPU seconds of encoding and of labels of one picture."""
    model, generator = make_model(), torch.Generator().manual_seed(0)
    photo = Path(__file__).parents[1] / "examples" / "coffee.jpg"
    picture = Image.open(photo).convert("RGB").resize((640, 480))
    for method in methods:
        segmenter = Segmenter.from_pretrained(model, method)
        rows = torch.randn(21 + names, segmenter.tower.width, generator=generator)
        texts = segmenter.encode_text(rows[:21], rows[21:] if names else None)
        seconds, encoding = least(lambda one=segmenter: one.encode(picture))
        _, scored = least(lambda one=segmenter, e=encoding, t=texts: one.score(e, t))
        labels, _ = least(scored.labels)
        everywhere, _ = least(lambda one=scored: Rule.labels(one.rule, one, None))
        print(
            f"{method:10} encode {seconds:.3f} s, labels {labels:.3f} s ({labels / seconds:.1%}), "
            f"all names at all pixels {everywhere:.3f} s",
            flush=True,
        )


def least(call: Callable[[], T], rounds: int = 3) -> tuple[float, T]:
    """The least CPU seconds of a call, and what it returns."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
    return min(seconds), result


if __name__ == "__main__":
    main()
