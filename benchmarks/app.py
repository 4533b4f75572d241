"""What the page waits for: a first run on a picture, against other words, thresholds and opacity.

    python benchmarks/app.py [--size 448 336] [--rounds 3] [--model SOURCE]

The network is a random CLIP of the size of ViT-B/16 (weights do not change the time) unless
another is given, the method `cliper`; times hold reading, encoding, labels and drawing, as on the
page, without gradio.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from wordmask import Background
from wordmask.app import results
from wordmask.app.engine import Engine
from wordmask.app.job import Job, Settings, read_words

VISION = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                          num_attention_heads=12, patch_size=16, image_size=224)  # fmt: skip
TEXT = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8}
TINY = Path(__file__).parents[1] / "src/wordmask/networks/tiny-clip"  # for its tokenizer


def save_model(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    text = CLIPTextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=[448, 336])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a CLIP, such as wordmask/tiny-clip")
    arguments = parser.parse_args()
    width, height = arguments.size
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {width} x {height} pixels"
    )
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.model is None:
            save_model(folder / "model")
        engine = Engine(arguments.model or str(folder / "model"), offline=True)
        base = Settings(engine.model, "cliper")
        words = [read_words(text) for text in (["grass", "sand"], ["sand", "grass", "red"])]
        for pairs in words:  # the text encoder is warm: other words are those of another list
            engine.load(engine.model).with_method("cliper").encode_text(pairs, "none")
        for i in range(arguments.rounds):
            noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
            path = folder / f"{i}.png"
            Image.fromarray(noise).save(path)
            job = Job(str(path), words[0], Background.none(), base)
            scale = dataclasses.replace(base, options=(("logit_scale", "20"),))
            jobs = {
                "first run": job,
                "other words": dataclasses.replace(job, words=words[1]),
                "other background": dataclasses.replace(job, background=Background.threshold(0.4)),
                "other threshold": dataclasses.replace(job, settings=scale),
            }
            for what, one in jobs.items():
                spent = seconds(lambda one=one: results.overlay(engine.run(one).result, 0.55))
                times.setdefault(what, []).append(spent)
            spent = seconds(lambda job=job: results.overlay(engine.run(job).result, 0.9))
            times.setdefault("other opacity", []).append(spent)
    first = statistics.median(times["first run"])
    for what, found in times.items():
        middle = statistics.median(found)
        print(f"{what:17} {1000 * middle:8.0f} ms  {first / middle:6.1f} x")


if __name__ == "__main__":
    main()
