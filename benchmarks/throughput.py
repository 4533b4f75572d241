"""Pictures a second of a folder, over the bare forward passes of the same CLIP.

    python benchmarks/throughput.py [--pictures 24] [--method clearclip] [--workers 2] [--ray 2]

Random weights in the shape of ViT-B/16; JPEG pictures made on the spot, or those of `--photos`. The
bare passes are transformers' own `CLIPVisionModelWithProjection` with SDPA on the same pixels,
which are in memory: nothing is read, decided or written. `in turn` calls the segmenter on one
picture after the other and saves the same formats, `list` gives it all at once, and `folder` is
`segment_folder`; with Ray its time includes the start of Ray and of the actors, which is also given
by itself, and CPU times say nothing, as other processes do the work. All are run in turn, and
ratios are taken round by round: of the time on the wall; of the CPU time of the thread that runs
the network, which is the ratio if the other threads have cores of their own (with one thread of
torch); and of the CPU time of all. Last, where the time of a picture goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from encode import RandomText, make_model
from wordmask import Segmenter, segment_folder
from wordmask.devices import synchronise
from wordmask.formats import DEFAULT, Item, check_formats, render
from wordmask.images import decode_image
from wordmask.vocabulary import Vocabulary

SIZE = (480, 640)


def make_pictures(folder: Path, count: int) -> None:
    """JPEG pictures with the detail of photographs: noise at all scales, as 1/f."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    height, width = SIZE
    scale = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    scale[0, 0] = 1
    for i in range(count):
        noise = np.fft.fft2(rng.normal(size=(3, height, width))) / scale
        pixels = np.fft.ifft2(noise).real
        pixels = 128 + 45 * (pixels - pixels.mean()) / pixels.std()
        array = pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(array).save(folder / f"{i:04d}.jpg", quality=90)


def timed(call: Callable[[], object], device: torch.device) -> tuple[float, float, float]:
    """Seconds of a call: on the wall, of this thread's CPU, and of the CPU of all threads."""
    clocks = time.perf_counter, time.thread_time, time.process_time
    synchronise(device)
    start = [clock() for clock in clocks]
    call()
    synchronise(device)
    wall, own, threads = (clock() - since for clock, since in zip(clocks, start, strict=True))
    return wall, own, threads


def stages(segmenter: Segmenter, texts, paths: list[Path], formats: tuple[str, ...], names):
    """Seconds a picture of each stage, one after the other."""
    seconds: dict[str, float] = {}

    def clock(name: str, call: Callable, *values):
        found = []
        took = timed(lambda: found.append(call(*values)), segmenter.tower.device)
        seconds[name] = seconds.get(name, 0.0) + took[2] / len(paths)
        return found[0]

    for path in paths:
        image = clock("decode", decode_image, path.read_bytes(), str(path))
        prepared = clock("resize", segmenter.prepare, image)
        encoding = clock("network", segmenter.encode_prepared, [prepared], True)
        result = clock("decide", segmenter, encoding, texts)
        clock("files", render, Item(path.stem, str(path), result, names.classes), formats)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--photos", help="a folder of pictures in place of made ones")
    parser.add_argument("--method", default="clearclip")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--format", default=",".join(DEFAULT))
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--ray", type=int, nargs="*", default=[], help="actors of Ray Data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    # Ray's actors import what this script imports from its folder
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    formats = check_formats(arguments.format.split(","))
    names = Vocabulary([f"class {i + 1}" for i in range(arguments.classes)])
    model = make_model().to(arguments.device)
    if arguments.device != "cpu":
        model = model.half()
    segmenter = RandomText.from_pretrained(model, arguments.method)
    texts = segmenter.encode_text(names)
    device = segmenter.tower.device
    segmenter.weights()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(arguments.photos or Path(work, "photos"))
        if not arguments.photos:
            make_pictures(folder, arguments.pictures)
        paths = sorted(folder.iterdir())[: arguments.pictures]
        batch = segmenter.pipeline.at_once
        pixels = [segmenter.prepare(path).pixels for path in paths]
        shapes: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for one in pixels:
            shapes.setdefault(tuple(one.shape), []).append(one.to(device, segmenter.tower.dtype))
        batches = [x for some in shapes.values() for x in torch.stack(some).split(batch)]
        count = 0

        @torch.inference_mode()
        def bare():
            for x in batches:
                model(x, interpolate_pos_encoding=True)

        def save(result, path):
            item = Item(path.stem, str(path), result, names.classes)
            for suffix, content in render(item, formats).items():
                Path(work, f"{path.stem}{suffix}").write_bytes(content)

        def in_turn():
            for path in paths:
                save(segmenter(path, texts), path)

        def as_list():
            for path, result in zip(paths, segmenter(paths, texts), strict=True):
                save(result, path)

        starts: list[float] = []  # seconds from the call to the first picture of Ray

        def in_folder(workers: int):
            nonlocal count
            count += 1
            kept = {"background": "none", "formats": formats, "workers": workers}
            segment_folder(segmenter, paths, names, Path(work, f"out{count}"), **kept)

        def on_ray(actors: int):
            nonlocal count
            count += 1
            start = time.perf_counter()
            seen: list[float] = []
            kept = {"background": "none", "formats": formats, "workers": actors, "engine": "ray"}
            segment_folder(
                segmenter,
                paths,
                names,
                Path(work, f"out{count}"),
                progress=lambda _: seen.append(time.perf_counter() - start),
                **kept,
            )
            starts.append(seen[0])

        calls = {"bare passes": bare, "in turn": in_turn, "list": as_list}
        calls["folder"] = lambda: in_folder(1)
        for number in arguments.workers:
            calls[f"folder, {number} workers"] = lambda number=number: in_folder(number)
        for number in arguments.ray:
            calls[f"ray, {number} actors"] = lambda number=number: on_ray(number)
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calls}
        for i in range(arguments.rounds + 1):
            for name, call in calls.items():
                seconds = timed(call, device)
                if i:
                    times[name].append(seconds)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}")
        print(f"{len(paths)} pictures, {arguments.method}, {arguments.classes} classes, {formats}")
        print(f"{'':20} pictures/s  of bare passes (min-max)  by this thread's CPU, by all CPU")
        for name, taken in times.items():
            rounds = list(zip(times["bare passes"], taken, strict=True))
            ratios = [[a[i] / max(b[i], 1e-9) for a, b in rounds] for i in range(3)]
            wall, own, threads = map(statistics.median, ratios)
            rate = len(paths) / statistics.median(seconds[0] for seconds in taken)
            between = f"({min(ratios[0]):.2f}-{max(ratios[0]):.2f})"
            print(f"{name:20}{rate:11.2f}  {wall:.2f} {between:13}{own:22.2f}{threads:13.2f}")
        if starts:
            print(f"ray: {statistics.median(starts):.1f} s to the first pictures")
        parts = stages(segmenter, texts, paths, formats, names)
        print(
            "ms of CPU a picture: "
            + ", ".join(f"{name} {1000 * s:.1f}" for name, s in parts.items())
        )


if __name__ == "__main__":
    main()
