"""Peak memory and time of making labels: 847 classes on a picture of 2048 x 1024.

    python benchmarks/decide.py [--classes 847] [--size 1024 2048] [--grid 64 128]

The full float map of 847 classes at that size would take 6.6 GiB. Peak memory is the rise of the
resident set during the call.
"""

from __future__ import annotations

import argparse

import torch

from memory import measure
from wordmask import Background
from wordmask.encoding import Encoding
from wordmask.methods import create_method
from wordmask.scoring import Scored
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap, Tile, Window, place_windows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=847)
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048])
    parser.add_argument("--grid", type=int, nargs=2, default=[64, 128])
    arguments = parser.parse_args()
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
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{classes} classes at {size[1]} x {size[0]}: the full float map is {full:.0f} MiB")
    encoding = Encoding(whole[None], None, torch.zeros(1, 3, *size), (size,))
    for name, scores in maps.items():
        for method in ("sclip", "cliper"):
            rule = create_method(method)[0].rule(encoding, 0)
            scored = Scored(scores, texts, rule, size, grid)
            seconds, memory = measure(scored.labels)
            print(f"{method:8} {name:12} {seconds:6.1f} s  peak {memory:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
