"""The best, the median and the worst pictures of a run, drawn: picture, target, prediction."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wordmask.datasets import VOID, Benchmark, Sample
from wordmask.drawing import overlay, palette, strip
from wordmask.evaluation.plan import CLEAN, Plan, check
from wordmask.evaluation.runs import Run, encode_view, label, load, make_runs
from wordmask.evaluation.views import view_picture, view_target
from wordmask.files import write_atomically
from wordmask.images import read_image
from wordmask.progress import steps

LIST = "pictures.json"
HEIGHT = 320  # of a strip, pixels


def choose(pictures: Sequence[Mapping[str, Any]], count: int) -> dict[str, list[str]]:
    """Ids of the best, median and worst pictures by their mIoU, none in two groups.

    pictures: as in results.json, each with `id` and `miou`; those without a mIoU are left out.
    """
    ranked = sorted(
        (p for p in pictures if p["miou"] is not None), key=lambda p: (-p["miou"], p["id"])
    )
    ids = [p["id"] for p in ranked]
    count = min(count, len(ids) // 3) or min(1, len(ids))
    middle = (len(ids) - count) // 2
    chosen = {"best": ids[:count], "median": ids[middle : middle + count], "worst": ids[-count:]}
    taken: set[str] = set()
    for name, group in chosen.items():
        chosen[name] = [one for one in group if one not in taken]
        taken |= set(chosen[name])
    return chosen


def choose_same(runs: Sequence[Mapping[str, Any]], count: int) -> dict[str, list[str]]:
    """As `choose`, once for several runs on the same pictures: by the mean of their mIoUs.

    runs: as in results.json, each with `pictures`. A picture that a run has no mIoU for is left
    out.
    """
    mious: dict[str, list[float | None]] = {}
    for run in runs:
        for picture in run["pictures"]:
            mious.setdefault(picture["id"], []).append(picture["miou"])
    means = [
        {"id": one, "miou": None if None in values else sum(values) / len(values)}  # type: ignore[arg-type]
        for one, values in mious.items()
    ]
    return choose(means, count)


def draw_examples(
    plan: Plan, found: Mapping[str, Any], folder: Path, count: int, same: bool = False
) -> None:
    """Draw strips of the clean pictures of every method and list them in `pictures.json`.

    Args:
        plan: what was evaluated.
        found: its results.
        folder: for the strips, with a subfolder for each data set.
        count: number of pictures in each group.
        same: the same pictures for all methods, see `choose_same`; else each method's own.
    """
    base = load(plan)
    listed = []
    for name, samples in check(plan).items():
        runs = {run.label: run for run in make_runs(plan, base, samples)}
        by_id = {sample.id: sample for sample in samples}
        best: dict[str, Mapping[str, Any]] = {}  # of a sweep, the best alone
        for entry in found["runs"]:
            if entry["dataset"] == name and tuple(entry["condition"]) == CLEAN:
                other = best.setdefault(entry["protocol"]["entry"], entry)
                if (entry["miou"] or 0) > (other["miou"] or 0):
                    best[entry["protocol"]["entry"]] = entry
        shared = choose_same(list(best.values()), count) if same else None
        for entry in steps("methods", best.values()):
            mean = {picture["id"]: picture["miou"] for picture in entry["pictures"]}
            for group, ids in (shared or choose(entry["pictures"], count)).items():
                for index, one in enumerate(ids):
                    sample = by_id[one]
                    drawn, legend = _draw(runs[entry["label"]], samples.benchmark, sample, entry)
                    file = f"{name}/{_file(entry['label'])}-{group}-{index + 1}.jpg"
                    path = folder / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, partial(drawn.save, format="JPEG", quality=88))
                    listed.append(
                        {
                            "dataset": name,
                            "label": entry["label"],
                            "group": group,
                            "picture": one,
                            "miou": mean[one],
                            "file": file,
                            "legend": legend,
                        }
                    )
    text = json.dumps(listed, indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / LIST, lambda file: file.write(text.encode()))


def _file(label: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", label)


def _draw(
    run: Run, bench: Benchmark, sample: Sample, entry: Mapping[str, Any]
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Picture, target and prediction side by side; and their classes, most pixels first."""
    view, image, target = run.protocol.view, read_image(sample.image), sample.target()
    shown = np.concatenate(view_picture(image, view), axis=1)
    encodings = encode_view(run.segmenter, image, target, run.protocol, sample.id)
    prediction = label(run, run.words(sample, target, bench), encodings)
    target = view_target(target, view)
    void = target == VOID
    names = [one["name"] for one in entry["classes"]][-bench.classes :]
    target = np.where(void, np.uint16(0), target)
    panels = [Image.fromarray(shown)]
    panels += [overlay(shown, labels, names, legend=False) for labels in (target, prediction)]
    colours = palette(len(names))
    in_target, in_prediction = (
        np.bincount(labels[~void], minlength=len(names) + 1) / max((~void).sum(), 1)
        for labels in (target, prediction)
    )
    legend = [
        {
            "name": names[i - 1],
            "colour": f"#{bytes(colours[i].tolist()).hex()}",
            "target": round(float(in_target[i]), 4),
            "prediction": round(float(in_prediction[i]), 4),
        }
        for i in np.argsort(-(in_target + in_prediction), kind="stable")
        if i and in_target[i] + in_prediction[i] > 0
    ]
    return strip(panels, ["picture", "target", "prediction"], height=HEIGHT), legend
