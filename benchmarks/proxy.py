"""ProxyCLIP's attention: `MaskedSoftmax.mix` against the explicit dense form.

    python benchmarks/proxy.py [--rounds 7] [--threads 1]

The dense form is the equation as it is written: enlarge the values to the VFM's grid, all cosines,
their mean, shift, scale, mask, softmax, product. Random features in the shape of DINO ViT-B/8 and
B/16 and of DINOv2 at 336 x 448 and 336 x 1008 pixels; values of CLIP ViT-B/16 (768 channels), and
class maps as a refiner has them. Both are run in turn, and ratios are taken pair by pair. Seconds
are CPU seconds of the process; peak memory is the rise of the resident set over its level before
the call, each in a process of its own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from memory import measure
from wordmask.affinity import MaskedSoftmax

CASES = {  # picture, patch and width of the VFM, channels that are mixed
    "DINO B/8, values": ((336, 448), 8, 768, 768),
    "DINO B/8, 21 classes": ((336, 448), 8, 768, 21),
    "DINO B/16, values": ((336, 448), 16, 768, 768),
    "DINOv2 S/14, 171 classes": ((336, 448), 14, 384, 171),
    "DINO B/8, wide, values": ((336, 1008), 8, 768, 768),
}


def dense(features: Tensor, maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """The equation as it is written, (C, h, w)."""
    values = F.interpolate(maps[None], size=grid, mode="bilinear")[0].flatten(1).T
    unit = F.normalize(features, dim=-1)
    cosine = unit @ unit.T
    scores = (cosine - 1.2 * cosine.mean()) * 3.0
    attention = torch.softmax(scores.masked_fill(scores < 0, -torch.inf), dim=-1)
    return (attention @ values).T.unflatten(1, grid)


def ours(features: Tensor, maps: Tensor, grid: tuple[int, int]) -> Tensor:
    return MaskedSoftmax(features).mix(maps, grid)


def make(case: str) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Features (L, D) with regions in them, maps on CLIP's grid, the VFM's grid."""
    (height, width), patch, channels, count = CASES[case]
    grid = height // patch, width // patch
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(1, channels, 4, 5, generator=generator)
    plane = F.interpolate(regions, size=grid, mode="bilinear")[0].flatten(1).T
    noise = torch.randn(plane.shape, generator=generator)
    maps = torch.randn(count, height // 16, width // 16, generator=generator)
    return (plane + 0.5 * noise).contiguous(), maps, grid


@torch.inference_mode()
def compare(case: str, rounds: int) -> tuple[float, float, list[float], float]:
    inputs = make(case)
    seconds: dict[str, list[float]] = {"dense": [], "ours": []}
    results = {}
    for i in range(rounds + 1):
        for name, call in (("dense", dense), ("ours", ours)):
            start = time.process_time()
            results[name] = call(*inputs)
            if i:
                seconds[name].append(time.process_time() - start)
    pairs = [b / a for a, b in zip(seconds["dense"], seconds["ours"], strict=True)]
    apart = (results["dense"] - results["ours"]).abs().mean().item()
    return statistics.median(seconds["dense"]), statistics.median(seconds["ours"]), pairs, apart


@torch.inference_mode()
def peak_memory(case: str, which: str) -> float:
    """MiB above the level before the call; run in a fresh process."""
    inputs = make(case)
    torch.ones(64, 64) @ torch.ones(64, 64)  # what the libraries set up once is not counted
    return measure(lambda: (dense if which == "dense" else ours)(*inputs))[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(peak_memory(*arguments.memory_of))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(
        f"{'case':27}{'L':>6}{'dense s':>9}{'ours s':>8}{'ratio':>7}  min-max    "
        f"{'dense MiB':>9}{'ours MiB':>9}  mean difference"
    )
    for case in CASES:
        before, after, pairs, apart = compare(case, arguments.rounds)
        command = [sys.executable, __file__, "--threads", str(arguments.threads), "--memory-of"]
        memory = [
            float(subprocess.check_output([*command, case, which]).split()[-1])
            for which in ("dense", "ours")
        ]
        (height, width), patch = CASES[case][:2]
        print(
            f"{case:27}{height // patch * (width // patch):6}{before:9.3f}{after:8.3f}"
            f"{statistics.median(pairs):7.2f}  {min(pairs):.2f}-{max(pairs):.2f}"
            f"{memory[0]:13.0f}{memory[1]:9.0f}  {apart:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
