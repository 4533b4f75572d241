"""From counts to results, and results.json, the file of results."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wordmask.errors import WordmaskError
from wordmask.evaluation.plan import CLEAN, Condition, Plan
from wordmask.evaluation.published import RunState, find_near, find_reported
from wordmask.evaluation.runs import Run, Task
from wordmask.evaluation.summary import markdown
from wordmask.files import write_atomically
from wordmask.metrics.bootstrap import percentile_interval
from wordmask.metrics.collection import Metrics
from wordmask.version import versions

RESULTS = "results.json"
FORM = 3  # of results.json


def collect(plan: Plan, tasks: Sequence[Task]) -> dict[str, Any]:
    """Compute the results of all data sets from their journals.

    Args:
        plan: what was evaluated.
        tasks: the runs of each data set, and the journal of their counts.

    Raises:
        WordmaskError: a picture is not counted yet.
    """
    runs = [
        entry
        for task in tasks
        for condition in plan.conditions
        for entry in _collect(plan, task, condition)
    ]
    found = {
        "form": FORM,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions("wordmask", "torch", "transformers", "numpy", "python"),
        "machine": machine(tasks[0].model["device"]),
        "plan": plan.describe(),
        "model": tasks[0].model,
        "networks": _networks(plan, tasks),
        "runs": runs,
    }
    return json.loads(json.dumps(found, allow_nan=False))  # the same as read from the file


def machine(device: str) -> str:
    """The hardware on which pictures were encoded."""
    if device == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    if device == "mps":
        return f"{platform.machine()}, Apple's GPU"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _networks(plan: Plan, tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """Auxiliary networks that the plan names, or that were loaded in this process."""
    named = {kind: {"source": str(source)} for kind, source in plan.networks.items()}
    return named | tasks[0].runs[0].segmenter.networks.describe()


def _collect(plan: Plan, task: Task, condition: Condition) -> list[dict[str, Any]]:
    metrics = [run.metrics(task.bench, plan.boundary) for run in task.runs]
    seconds: list[list[tuple[float, float]]] = [[] for _ in task.runs]
    for picture in task.counts(condition):
        for counted, times, counts in zip(metrics, seconds, picture.runs, strict=True):
            counted.add(counts.counted)
            times.append((counts.encode, counts.decide))
    entries = [
        _entry(plan, task, run, condition, counted, times)
        for run, counted, times in zip(task.runs, metrics, seconds, strict=True)
    ]
    return [{**entry, "plain": plain_names(entry, entries)} for entry in entries]


def plain_names(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> float | None:
    """The mIoU of the run that differs in its names alone, which are plain; None if there is none.

    Other names may bring another background; such a run counts if it is the only one.

    Args:
        entry: a run as results.json holds it.
        entries: runs of the same networks on the same pictures.
    """
    for names in ({"names": "plain"}, {"names": "plain", "background": ""}):
        same = [
            one["miou"]
            for one in entries
            if one["protocol"]["settings"]["names"] == "plain"
            and one["protocol"]["entry"] == entry["protocol"]["entry"]
            and one["protocol"]["settings"] | names == entry["protocol"]["settings"] | names
        ]
        if len(same) == 1:
            return same[0]
    return None


def _entry(
    plan: Plan,
    task: Task,
    run: Run,
    condition: Condition,
    counted: Metrics,
    seconds: list[tuple[float, float]],
) -> dict[str, Any]:
    """Everything about one run of one data set."""
    bench, protocol = task.bench, run.protocol
    loaded = _networks(plan, [task])
    confusion = counted.confusion
    means = counted.summary()
    headline = means[f"miou_{protocol.definition}"]
    names = ["background"] if bench.has_background else []
    names += [found[0] for found in bench.names[protocol.names]]
    classes = [
        {
            "name": name,
            "iou": iou,
            "accuracy": accuracy,
            "target": int(target),
            "prediction": int(predicted),
        }
        for name, iou, accuracy, target, predicted in zip(
            names,
            confusion.per_class_iou().tolist(),
            confusion.per_class_accuracy().tolist(),
            confusion.target_area,
            confusion.prediction_area,
            strict=True,
        )
    ]
    encode, decide = np.array(seconds).T
    together = next(labels for labels in task.shared if run.label in labels)
    each = counted.per_picture.mean_iou()
    resampled = counted.per_picture.resamples()
    parts = (run.segmenter.method, *run.segmenter.refiners)
    kinds = {kind for part in parts for kind in part.networks if kind != "none"}
    entry = {
        "label": run.label,
        "swept": dict(change.split("=", 1) for change in run.swept),
        "dataset": bench.name,
        "title": bench.title,
        "condition": list(condition),
        "images": confusion.images,
        "expected": bench.expected,
        "protocol": protocol.describe(),
        "networks": {k: v for k, v in loaded.items() if k in kinds},
        "background": run.texts.strategy.describe(),
        "words": run.word_counts(bench),
        "miou": headline,
        "metrics": means,
        "intervals": {name: percentile_interval(values) for name, values in resampled.items()},
        "resamples": {
            definition: resampled[f"miou_{definition}"].round(6).tolist()
            for definition in ("union", "present")
        },
        "void_pixels": confusion.void_pixels,
        "classes": classes,
        "seconds": {
            "encode": float(encode.mean()),
            "decide": float(decide.mean()),
            "pass_shared_by": len(together),
        },
        "pictures": [
            {"id": picture, "miou": each[picture], "encode": a, "decide": b}
            for picture, (a, b) in zip(counted.per_picture.areas, seconds, strict=True)
        ],
    }
    if plan.calibration:
        entry["calibration"] = _calibration(run, counted)
    state = RunState(entry, task.model, _sources(run), _text(plan.text_features))
    entry |= published(state) if condition == CLEAN else {"published": [], "near": None}
    return _without_nan(entry)


def published(state: RunState) -> dict[str, Any]:
    """The numbers of papers for a run, as plain values: those of its setting, and the nearest."""
    near = find_near(state)
    return {
        "published": [dataclasses.asdict(number) for number in find_reported(state)],
        "near": None if near is None else dataclasses.asdict(near),
    }


def _text(path: Any) -> str | None:
    return None if path is None else str(path)


def _calibration(run: Run, counted: Metrics) -> dict[str, Any]:
    """Pixels, mean confidence and accuracy in every bin; a note for methods without them."""
    if run.segmenter.class_maps:
        return {"note": "no calibration error: it gives class maps and no probabilities"}
    confidence, accuracy = counted.calibration.curve()
    pixels = counted.calibration.counts[0].tolist()
    return {
        "pixels": pixels,
        "confidence": confidence.tolist(),
        "accuracy": accuracy.tolist(),
    }


def _sources(run: Run) -> dict[str, str]:
    return {kind: str(source) for kind, source in run.segmenter.networks.sources.items()}


def _without_nan(value: Any) -> Any:
    """Replace NaN by None for JSON."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(results: Mapping[str, Any], out: Path) -> None:
    """Write results.json and results.md."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(out / RESULTS, lambda file: file.write(text.encode()))
    table = markdown(results)
    write_atomically(out / "results.md", lambda file: file.write(table.encode()))


def read(path: Path) -> dict[str, Any]:
    """Read a results.json.

    Raises:
        WordmaskError: a file that cannot be read or is not a results.json.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WordmaskError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict) or found.get("form") != FORM or "runs" not in found:
        raise WordmaskError(f"{path} is not a results.json that this version of wordmask wrote")
    return found
