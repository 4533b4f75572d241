"""Time and memory of each step from a large file to labels and an overlay.

    python benchmarks/large_pictures.py [--side 5000] [--method clearclip] [--suffix .jpg] [--draft]

A square of that side, enlarged from examples/coffee.jpg, with the built-in CLIP, three words and
the scene words of `auto`. Memory is the peak of the resident set above that before the first step.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

from memory import measure, resident
from wordmask import Segmenter, read_image

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=5000)
    parser.add_argument("--method", default="clearclip")
    parser.add_argument("--suffix", default=".jpg")
    parser.add_argument("--draft", action="store_true", help="decode at a reduced size; no overlay")
    given = parser.parse_args()
    options = {"short_side": 448}
    segmenter = Segmenter.from_pretrained("wordmask/tiny-clip", given.method, options=options)
    texts = segmenter.encode_text(["brick", "water", "grass"])
    photo = Image.open(Path(__file__).parents[1] / "examples" / "coffee.jpg").convert("RGB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large").with_suffix(given.suffix)
        photo.resize((given.side, given.side), Image.Resampling.BICUBIC).save(path)
        base, total = resident(), 0.0

        def step(name: str, call: Callable[[], T]) -> T:
            nonlocal total
            kept: list[T] = []
            before, start = resident(), time.process_time()
            _, rise = measure(lambda: kept.append(call()))
            seconds = time.process_time() - start
            total += seconds
            peak = rise + (before - base) / 2**20
            print(f"{name:10} {seconds:6.2f} s CPU, peak {peak:6.0f} MiB", flush=True)
            return kept[0]

        if given.draft:
            prepared = step("read", lambda: segmenter.prepare_reduced(path.read_bytes(), "large"))
            reduced = step("encode", lambda: segmenter.encode_prepared([prepared], single=True))
            labels = step("label", lambda: segmenter.score(reduced, texts).labels())
            print(f"{'all':10} {total:6.2f} s CPU, {prepared.image.shape[1]} pixels wide")
            whole = segmenter(path, texts).labels
            print(f"{(labels != whole).mean():.1%} of labels differ from those of all pixels")
            return
        image = step("read", lambda: read_image(path))
        encoding = step("encode", lambda: segmenter.encode(image))
        result = step("label", lambda: segmenter(encoding, texts))
        overlay = step("overlay", result.overlay)
        step("save", lambda: overlay.save(io.BytesIO(), "JPEG", quality=92, subsampling=0))
        print(f"{'all':10} {total:6.2f} s CPU")


if __name__ == "__main__":
    main()
