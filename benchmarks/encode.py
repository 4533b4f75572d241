"""Time and peak memory of `encode` for every method over a plain forward of the same CLIP.

    python benchmarks/encode.py [--batch 1 4] [--rounds 7] [--methods cliper gem]

Random weights in the shape of ViT-B/16, a picture of 336 x 448. The plain forward is transformers'
own `CLIPVisionModelWithProjection` with SDPA on the same weights, pixels and threads. Both are run
in turn, and the ratio is taken pair by pair, so that a machine whose speed drifts does not matter.
Peak memory is the rise of the resident set over its level before the call, each in a process of its
own. Methods that need an auxiliary model are left out: `wordmask bench --random` measures those.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from memory import measure
from wordmask import Segmenter, list_methods
from wordmask.methods import create_method
from wordmask.text_queries import TextQueries

SIZE = (336, 448)


def make_model() -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=16,
        image_size=224,
        projection_dim=512,
        hidden_act="quick_gelu",
    )
    return CLIPVisionModelWithProjection(config).eval()


class RandomText(Segmenter):
    """Text embeddings at random: the model has no text tower, and time does not depend on them."""

    def encode_text(self, words, background=None):
        if isinstance(words, TextQueries):
            return words
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(len(words.classes), self.tower.width, generator=generator)
        return super().encode_text(rows.to(self.tower.device), "none")


def make_calls(method: str, batch: int):
    model = make_model()
    pixels = torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    segmenter = Segmenter.from_pretrained(model, method)

    @torch.inference_mode()
    def plain():
        return model(pixels, interpolate_pos_encoding=True)

    def ours():
        return segmenter.encode(pixels)

    return plain, ours


def ratio(method: str, batch: int, rounds: int) -> tuple[float, float, list[float]]:
    plain, ours = make_calls(method, batch)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for i in range(rounds + 1):
        for name, call in (("plain", plain), ("ours", ours)):
            start = time.perf_counter()
            call()
            if i:
                times[name].append(time.perf_counter() - start)
    pairs = [b / a for a, b in zip(times["plain"], times["ours"], strict=True)]
    return statistics.median(times["plain"]), statistics.median(times["ours"]), pairs


def peak_memory(method: str, batch: int, which: str) -> float:
    """MiB above the level before the call; run in a fresh process."""
    plain, ours = make_calls(method, batch)
    return measure(plain if which == "plain" else ours)[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", nargs="+", default=list_methods())
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        method, batch, which = arguments.memory_of
        print(peak_memory(method, int(batch), which))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    methods = []
    for name in arguments.methods:
        kinds = create_method(name)[0].networks
        if kinds:
            print(f"{name} left out: it needs an auxiliary model ({', '.join(kinds)})")
        else:
            methods.append(name)
    print(
        f"{'method':14}{'batch':>6}{'plain s':>9}{'ours s':>9}{'ratio':>7}  min-max    MiB (plain)"
    )
    for batch in arguments.batch:
        for method in methods:
            plain, ours, pairs = ratio(method, batch, arguments.rounds)
            memory = ""
            if not arguments.no_memory:
                command = [sys.executable, __file__, "--memory-of", method, str(batch)]
                found = [
                    float(subprocess.check_output([*command, which]).split()[-1])
                    for which in ("ours", "plain")
                ]
                memory = f"{found[0]:.0f} ({found[1]:.0f})"
            print(
                f"{method:14}{batch:6}{plain:9.3f}{ours:9.3f}{statistics.median(pairs):7.2f}"
                f"  {min(pairs):.2f}-{max(pairs):.2f}  {memory}",
                flush=True,
            )


if __name__ == "__main__":
    main()
