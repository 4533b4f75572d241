"""Time, memory and agreement with the CPU of every method and refiner, on the GPU that there is.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --random openai/clip-vit-base-patch16
    python benchmarks/gpu.py --model openai/clip-vit-base-patch16 --network vfm=facebook/dino-vitb8
    python benchmarks/gpu.py --device cpu --dtype bfloat16    # without a GPU: a type with another

Every variant of every method, then every variant of every refiner on `clearclip`, on a rendered
scene with the built-in networks (SAM's is small and random); or with those that are given; or with
random weights in the shape of a published CLIP and of DINO ViT-B/8, for time and memory.

The reference is the same on the CPU in float32. Agreement is the share of pixels with the same
label, and |a - b| / |b| of the class maps. A row outside of `BOUNDS` says so, and the command then
ends with status 1; a random SAM's masks turn with the last digit, so it is held to none. Time is
the median of `--rounds` calls that encode and label one picture, with one before them that is not
counted. Memory is the peak during such a call above what was there.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wordmask import Segmenter, WordmaskError
from wordmask.devices import DTYPES, pick_device, pick_dtype
from wordmask.evaluation import cost
from wordmask.images import read_image
from wordmask.methods import METHODS
from wordmask.refiners import REFINERS
from wordmask.toybox import choices, render
from wordmask.toybox.demo import SEED, SIZE
from wordmask.toybox.selftest import MODEL, NETWORKS, WORDS

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny import tiny_sam

CPU = torch.device("cpu")
BOUNDS = {  # least share of equal labels, largest error of the class maps
    torch.float32: (0.99, 0.001),
    torch.float16: (0.97, 0.02),
    torch.bfloat16: (0.90, 0.15),
}


def build(
    model: str | nn.Module, networks: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Segmenter:
    """All networks on a device; those in memory are copied."""

    def placed(source: Any) -> Any:
        return copy.deepcopy(source).to(device, dtype) if isinstance(source, nn.Module) else source

    where = {} if isinstance(model, nn.Module) else {"device": device, "dtype": dtype}
    sources = {kind: placed(source) for kind, source in networks.items()}
    return Segmenter.from_pretrained(placed(model), "clip", networks=sources, **where)


def cases(methods: list[str], refiners: list[str]) -> list[tuple[str, str, str]]:
    """What is measured: method, variant, and a refiner with its variant or ""."""
    alone = [(m, variant, "") for m in methods for variant in METHODS[m].variants]
    refined = [f"{r}:{variant}" for r in refiners for variant in REFINERS[r].variants]
    return alone + [("clearclip", "paper", refiner) for refiner in refined]


def agreement(here: Any, there: Any) -> tuple[float, float]:
    """The share of equal labels, and the error of the class maps, of two `Scored`."""
    same = float(np.mean(here.labels() == there.labels()))
    a, b = here.class_maps().cpu(), there.class_maps()
    return same, float((a - b).norm() / b.norm().clamp_min(1e-12))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="default: that of the device")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--network", action="append", default=[], metavar="KIND=SOURCE")
    parser.add_argument("--random", metavar="ID", help="random weights in the shape of this CLIP")
    parser.add_argument("--picture")
    parser.add_argument("--words", help="classes, separated by ;")
    parser.add_argument("--side", type=int, help="short side; default: the picture's own, or 336")
    parser.add_argument("--methods", nargs="*", default=sorted(METHODS))
    parser.add_argument("--refiners", nargs="*", default=sorted(REFINERS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, device)
    scene = render(SEED, SIZE, things=(4, 5))
    words: list[str] | Tensor = choices(scene, WORDS)
    networks: dict[str, Any] = NETWORKS | {"sam": tiny_sam()}
    networks |= dict(one.split("=", 1) for one in arguments.network)
    model: str | nn.Module = arguments.model
    if arguments.random:
        model = cost.random_clip(arguments.random, CPU, torch.float32)
        networks |= {"vfm": cost.random_vfm(CPU, torch.float32), "classifier": model}
        rows = torch.randn(WORDS, model.config.projection_dim)
        words = torch.nn.functional.normalize(rows, dim=-1)
    if arguments.words:
        words = [word.strip() for word in arguments.words.split(";")]
    picture = read_image(arguments.picture) if arguments.picture else scene.image
    native = model == MODEL and not arguments.picture
    side = arguments.side or (None if native else 336)
    least, largest = BOUNDS[dtype]

    print(", ".join(f"{name} {value}" for name, value in cost.conditions(device, dtype).items()))
    print(
        f"picture {picture.shape[0]} x {picture.shape[1]}, short side {side or 'as it is'}, "
        f"{len(words)} words; labels equal {least:.0%} or more, maps to {largest:g}\n"
    )
    print(f"{'method':32}{'with':22}{'ms':>8}{'MiB':>7}{'labels':>8}{'maps':>9}")
    random_sam = isinstance(networks["sam"], nn.Module)
    far = build(model, networks, device, dtype)
    near = build(model, networks, CPU, torch.float32)
    outside = 0
    for method, variant, refiner in cases(arguments.methods, arguments.refiners):
        options = {"side": SIZE} if native and refiner.startswith("diffusion") else {}
        refine = [(refiner, options)] if refiner else None
        label = f"{method}:{variant}"
        try:
            here, there = (
                one.with_method(method, variant, {"short_side": side}, refine)
                for one in (far, near)
            )
            texts = here.encode_text(words, "none")

            def call(segmenter: Segmenter = here, texts: Any = texts) -> Any:
                return segmenter(picture, texts)

            call()
            memory = cost.peak_memory(call, device)
            seconds = cost.median_seconds(call, arguments.rounds, device)
            same, error = agreement(here.score(picture, texts), there.score(picture, words, "none"))
        except WordmaskError as problem:
            print(f"{label:32}{refiner:22}left out: {problem}", flush=True)
            continue
        free = random_sam and refiner.startswith("sam")
        held = free or (same >= least and error <= largest)
        outside += not held
        peak = "-" if memory is None else round(memory)
        print(
            f"{label:32}{refiner:22}{1000 * seconds:8.1f}{peak:>7}"
            f"{same:8.1%}{error:9.5f}{'' if held else '  OUTSIDE'}",
            flush=True,
        )
    print(f"\n{outside} outside of the bounds")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
