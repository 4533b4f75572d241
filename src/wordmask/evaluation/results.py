"""From counts to results: a JSON that holds everything, and Markdown tables for people."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wordmask import __version__
from wordmask.errors import WordmaskError
from wordmask.evaluation.journal import Record, Shard
from wordmask.evaluation.published import METRICS, Reported, lookup
from wordmask.metrics.collection import Metrics

if TYPE_CHECKING:
    from wordmask.evaluation.evaluator import Plan, Run, Task

RESULTS = "results.json"
FORM = 1  # of results.json


def collect(plan: Plan, tasks: Sequence[Task]) -> dict[str, Any]:
    """Results of all data sets, from what their shards hold.

    Raises:
        WordmaskError: pictures that nobody counted.
    """
    import transformers

    from wordmask.evaluation.evaluator import conditions

    runs = [
        entry
        for task in tasks
        for condition in conditions(plan)
        for entry in _collect(plan, task, condition)
    ]
    found = {
        "form": FORM,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "wordmask": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": machine(tasks[0].model["device"]),
        "plan": _plain(plan),
        "model": tasks[0].model,
        "networks": _networks(plan, tasks),
        "runs": runs,
    }
    return json.loads(json.dumps(found, allow_nan=False))  # as it is read from the file


def machine(device: str) -> str:
    """What the pictures were encoded on."""
    if device == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _plain(plan: Plan) -> dict[str, Any]:
    """The plan as it was asked for."""
    values = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    values["model"] = plan.model if isinstance(plan.model, str) else type(plan.model).__name__
    values["networks"] = {kind: str(source) for kind, source in plan.networks.items()}
    for name in ("root", "text_features", "cache_dir"):
        values[name] = None if values[name] is None else str(values[name])
    return values


def _networks(plan: Plan, tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """Networks beside CLIP that were asked for by name, or loaded here."""
    named = {kind: {"source": str(source)} for kind, source in plan.networks.items()}
    return named | tasks[0].runs[0].segmenter.networks.describe()


def _collect(plan: Plan, task: Task, condition: tuple[str, int]) -> list[dict[str, Any]]:
    metrics = [run.metrics(task.bench, plan.boundary) for run in task.runs]
    seconds: list[list[tuple[float, float]]] = [[] for _ in task.runs]
    for record in _records(task, condition):
        for counted, times, answer in zip(metrics, seconds, record.answers, strict=True):
            counted.add(answer.counted)
            times.append((answer.encode, answer.decide))
    return [
        _entry(plan, task, run, condition, counted, times)
        for run, counted, times in zip(task.runs, metrics, seconds, strict=True)
    ]


def _records(task: Task, condition: tuple[str, int]) -> Iterator[Record]:
    """Every picture once, in the order of the data set; a shard at a time is in memory."""
    for _, path, pictures in task.shards(condition):
        found = Shard(path, pictures).records
        if len(found) < len(pictures):
            missing = pictures[len(found)]
            raise WordmaskError(f"the picture {missing!r} is not counted; start again to go on")
        yield from found


def _entry(
    plan: Plan,
    task: Task,
    run: Run,
    condition: tuple[str, int],
    counted: Metrics,
    seconds: list[tuple[float, float]],
) -> dict[str, Any]:
    """Everything about one run of one data set."""
    bench, protocol = task.bench, run.protocol
    confusion = counted.confusion
    means = counted.summary()
    headline = means[f"miou_{protocol.definition}"]
    names = ["background"] if bench.has_background else []
    names += [found[0] for found in bench.names[protocol.names]]
    classes = [
        {"name": name, "iou": iou, "accuracy": accuracy, "truth": int(truth), "answer": int(answer)}
        for name, iou, accuracy, truth, answer in zip(
            names,
            confusion.per_class_iou().tolist(),
            confusion.per_class_accuracy().tolist(),
            confusion.truth_area,
            confusion.answer_area,
            strict=True,
        )
    ]
    encode, decide = np.array(seconds).T
    together = next(labels for labels in task.shared if run.label in labels)
    each = counted.pictures.mean_iou()
    entry = {
        "label": run.label,
        "swept": dict(change.split("=", 1) for change in run.swept),
        "dataset": bench.name,
        "title": bench.title,
        "condition": list(condition),
        "images": confusion.images,
        "expected": bench.expected,
        "protocol": protocol.describe(),
        "background": run.background.describe(),
        "miou": headline,
        "metrics": means,
        "intervals": {k: list(v) for k, v in counted.pictures.intervals().items()},
        "void_pixels": confusion.void_pixels,
        "classes": classes,
        "seconds": {
            "encode": float(encode.mean()),
            "decide": float(decide.mean()),
            "pass_shared_by": len(together),
        },
        "pictures": [
            {"id": picture, "miou": each[picture], "encode": a, "decide": b}
            for picture, (a, b) in zip(counted.pictures.areas, seconds, strict=True)
        ],
    }
    if plan.calibration:
        entry["calibration"] = _calibration(run, counted)
    numbers = lookup(entry, task.model, _sources(run)) if condition == ("clean", 0) else []
    entry["published"] = [
        {"source": n.source, "metric": n.metric, "value": n.value} for n in numbers
    ]
    return _without_nan(entry)


def _calibration(run: Run, counted: Metrics) -> dict[str, Any]:
    """Pixels, mean confidence and accuracy in every bin; a note where there are none."""
    if run.segmenter.method.decision != "softmax":
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
    """NaN as None, which JSON can hold."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- what a person reads ------------------------------------------------------------------------


def percent(share: float | None) -> str:
    """A share as percent with one decimal, a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"


def complete(entry: Mapping[str, Any]) -> bool:
    """Whether the whole evaluation split was counted, as a published number is."""
    return bool(entry["expected"]) and entry["images"] == entry["expected"]


def headline(entry: Mapping[str, Any]) -> Reported | None:
    """The published mIoU of the same setting, from the method's own paper where there are more."""
    for found in entry["published"]:
        if found["metric"] == "miou":
            return Reported(**found)
    return None


def markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown: a table for each data set, and what stands behind it."""
    model = results["model"]
    lines = [
        "# Evaluation",
        "",
        f"Model {model['source']} ({model['backbone']}, weights {model['weights']}, "
        f"{model['dtype']}); {results['machine']}; wordmask {results['versions']['wordmask']}, "
        f"torch {results['versions']['torch']}; {results['made']}.",
    ]
    clean = [entry for entry in results["runs"] if entry["condition"][0] == "clean"]
    for name in dict.fromkeys(entry["dataset"] for entry in clean):
        lines += ["", *_table([entry for entry in clean if entry["dataset"] == name])]
        curve = [e for e in results["runs"] if e["dataset"] == name]
        if len(curve) > len([e for e in clean if e["dataset"] == name]):
            lines += ["", *_corruptions(curve)]
    lines += ["", *_legend(clean)]
    return "\n".join(lines) + "\n"


def _table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    first = entries[0]
    mixed = len({e["protocol"]["settings"]["definition"] for e in entries}) > 1
    count = f"{first['images']} pictures"
    if first["expected"] and not complete(first):
        count += f" of {first['expected']}: no number here compares with a published one"
    lines = [f"## {first['title']} (`{first['dataset']}`), {count}", ""]
    extra = [
        (key, name)
        for key, name in (
            ("image_map", "mAP"),
            ("boundary_miou_union", "boundary mIoU"),
            ("calibration_error", "ECE"),
        )
        if any(key in entry["metrics"] for entry in entries)
    ]
    heads = ["method", "protocol", "mIoU", "95 % interval", "published", "difference"]
    heads += ["pixels", "classes", "fwIoU", *(name for _, name in extra), "ms"]
    lines += [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * (len(heads) - 2)]
    for entry in entries:
        means = entry["metrics"]
        low, high = entry["intervals"][f"miou_{entry['protocol']['settings']['definition']}"]
        told, difference = "-", "-"
        number = headline(entry)
        if number is not None:
            told = f"{number.value:g} ({number.source})"
            if complete(entry) and entry["miou"] is not None:
                difference = f"{100 * entry['miou'] - number.value:+.1f}"
        seconds = entry["seconds"]
        cells = [
            f"`{entry['label']}`",
            entry["protocol"]["protocol"],
            percent(entry["miou"])
            + (f" ({entry['protocol']['settings']['definition']})" if mixed else ""),
            f"{percent(low)} to {percent(high)}",
            told,
            difference,
            percent(means["pixel_accuracy"]),
            percent(means["mean_accuracy_present"]),
            percent(means["frequency_weighted_iou"]),
            *(percent(means.get(key)) for key, _ in extra),
            f"{1000 * (seconds['encode'] + seconds['decide']):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _corruptions(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """mIoU under every corruption, at severities 1, 2, 3."""
    kinds = list(dict.fromkeys(e["condition"][0] for e in entries if e["condition"][0] != "clean"))
    by = {(e["label"], *e["condition"]): e["miou"] for e in entries}
    lines = ["mIoU of corrupted pictures, severities 1 / 2 / 3:", ""]
    lines += [f"| method | clean | {' | '.join(kinds)} |", "|---|--:|" + "--:|" * len(kinds)]
    for label in dict.fromkeys(e["label"] for e in entries):
        cells = [percent(by[label, "clean", 0])]
        cells += [" / ".join(percent(by[label, kind, s]) for s in (1, 2, 3)) for kind in kinds]
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    return lines


def _legend(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    definitions = {e["protocol"]["settings"]["definition"] for e in entries}
    said = {
        "union": "over the classes with union > 0 (a class that is answered and not in the truth "
        "counts as 0)",
        "present": "over the classes that the truth shows",
    }
    lines = [
        "mIoU: one confusion matrix over the set, mean " + ", or ".join(
            said[d] + (f" (`{d}`)" if len(definitions) > 1 else "") for d in sorted(definitions)
        ) + "; both definitions are in results.json. Interval: bootstrap over pictures. Pixels, "
        "classes: accuracy over pixels, and mean over classes. ms: encode and decide, a picture; "
        "where methods share a pass of the network, each has the whole of it. "
        "Published numbers are those of the same method, settings and backbone; a difference is "
        "given for complete data sets alone.",
    ]  # fmt: skip
    if any("calibration" in e for e in entries):
        lines[0] += (
            " ECE: expected calibration error in percent, over pixels in 15 bins of the "
            "probability of their label; 0 is best."
        )
    notes = dict.fromkeys(
        f"{e['protocol']['entry']}: {note}" for e in entries for note in _notes(e)
    )
    return [*lines, "", *(f"- {note}" for note in notes)]


def _notes(entry: Mapping[str, Any]) -> list[str]:
    told = entry.get("calibration", {}).get("note")
    return [*entry["protocol"]["notes"], *([told] if told else [])]


def write(results: Mapping[str, Any], out: Path) -> None:
    """Write results.json and results.md."""
    from wordmask.files import write_atomically

    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(out / RESULTS, lambda file: file.write(text.encode()))
    table = markdown(results)
    write_atomically(out / "results.md", lambda file: file.write(table.encode()))


def read(path: Path) -> dict[str, Any]:
    """Read a results.json.

    Raises:
        WordmaskError: a file that cannot be read or is something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WordmaskError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict) or found.get("form") != FORM or "runs" not in found:
        raise WordmaskError(f"{path} is not a results.json that this version of wordmask wrote")
    return found


__all__ = ["METRICS", "collect", "complete", "headline", "markdown", "percent", "read", "write"]
