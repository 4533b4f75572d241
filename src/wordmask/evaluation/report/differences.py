"""Differences of runs on the same pictures, with intervals of the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wordmask.evaluation.report.grid import Grid
from wordmask.evaluation.report.runs import Result
from wordmask.metrics.bootstrap import paired_interval


def difference_table(pictures: str, runs: Sequence[Result]) -> Grid | None:
    """Each run against the best one, and one method with two checkpoints; None without a pair.

    Args:
        pictures: their name, see `Result.pictures`.
        runs: those on these pictures. Where the headlines are of two definitions of mIoU, `union`
            counts for all.
    """
    runs = [f for f in runs if f.entry["miou"] is not None and f.entry.get("resamples")]
    definitions = {f.entry["protocol"]["settings"]["definition"] for f in runs}
    definition = definitions.pop() if len(definitions) == 1 else "union"
    ranked = sorted(runs, key=lambda f: -_miou(f, definition))
    pairs = [(other, ranked[0]) for other in ranked[1:]]
    pairs += [
        (other, one)
        for i, one in enumerate(ranked[1:], 1)
        for other in ranked[i + 1 :]
        if one.entry["label"] == other.entry["label"] and one.checkpoint != other.checkpoint
    ]
    if not pairs:
        return None
    rows = [_row(*pair, definition) for pair in pairs]
    note = (
        f"Differences of mIoU ({definition}) in points, with 95 % intervals of the paired "
        "bootstrap: both runs on the same resampled pictures. Where the interval holds 0, these "
        "pictures do not tell the two apart. The first named is the better here; many pairs make "
        "some intervals miss 0 by chance."
    )
    heads = ["better", "than", "difference", "95 % interval", "holds 0"]
    words = ("than", "95 % interval", "holds 0")
    return Grid(f"Differences on the same pictures: {pictures}", heads, rows, note, words)


def _row(other: Result, one: Result, definition: str) -> list[str]:
    values, others = (np.array(f.entry["resamples"][definition], float) for f in (one, other))
    low, high = paired_interval(values, others)
    difference = _miou(one, definition) - _miou(other, definition)
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    names = [one.name, other.name]
    return [*names, f"{100 * difference:+.1f}", interval, "yes" if low <= 0 <= high else "no"]


def _miou(found: Result, definition: str) -> float:
    return float(found.entry["metrics"][f"miou_{definition}"])
