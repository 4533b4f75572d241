"""Plots over several options or data sets: heat maps of two swept options, and radars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wordmask.evaluation.report.runs import Result

FEWEST_AXES = 3  # data sets of a radar
MOST_LINES = 12  # in a radar
USUAL = {"image_labels": "none", "regions": "none", "vocabulary": "all"}  # of runs in a radar


class Chart(NamedTuple):
    """A plot with its title, the name of its file, and what draws it on a matplotlib figure."""

    title: str
    name: str
    paint: Callable[[Any], None]


class Swept(NamedTuple):
    """mIoU in percent over the values of two options, (rows, columns); NaN where none was run."""

    rows: tuple[str, list[str]]
    columns: tuple[str, list[str]]
    values: np.ndarray


def charts(groups: dict[str, list[Result]], colours: dict[str, str]) -> Iterator[Chart]:
    """Heat maps of every pair of options that were swept together, and a radar of the data sets.

    Args:
        groups: clean runs by the pictures they were run on.
        colours: of the methods.
    """
    for key, runs in groups.items():
        entry = runs[0].entry
        where = f"{entry['title']} ({entry['dataset']}), {entry['images']} pictures"
        for line, (first, second, here) in enumerate(_pairs(runs)):
            found = tabulate(here, first, second)
            method = here[0].entry["protocol"]["entry"]
            title = f"{method}: {first} and {second}\n{where}"
            name = f"{where}: {method}, {first} and {second}"
            yield Chart(name, f"heat-{key}-{line + 1}", _heat(found, title))
    spokes = radar_values(groups)
    if spokes:
        names, lines = spokes
        title = f"mIoU on {len(names)} data sets"
        yield Chart(title, "radar", _radar(names, lines, title, colours))


def _pairs(runs: Sequence[Result]) -> Iterator[tuple[str, str, list[Result]]]:
    """Two options that vary while all else is equal, and the runs in which they do."""
    lines: dict[tuple[Any, ...], list[Result]] = {}
    for found in runs:
        swept = found.entry["swept"]
        options = list(swept)
        for i, first in enumerate(options):
            for second in options[i + 1 :]:
                rest = tuple((k, v) for k, v in swept.items() if k not in (first, second))
                protocol = found.entry["protocol"]
                line = (protocol["entry"], protocol["protocol"], found.model["weights"])
                lines.setdefault((first, second, *line, rest), []).append(found)
    for (first, second, *_), here in lines.items():
        values = [{found.entry["swept"][key] for found in here} for key in (first, second)]
        if min(map(len, values)) > 1:
            yield first, second, here


def tabulate(runs: Sequence[Result], first: str, second: str) -> Swept:
    """mIoU by the values of two swept options, in the order of numbers if they are numbers."""
    axes = []
    for key in (first, second):
        values = dict.fromkeys(found.entry["swept"][key] for found in runs)
        axes.append(sorted(values, key=_order))
    table = np.full((len(axes[0]), len(axes[1])), np.nan)
    for found in runs:
        at = (
            axis.index(found.entry["swept"][k])
            for axis, k in zip(axes, (first, second), strict=True)
        )
        table[tuple(at)] = 100 * found.entry["miou"]
    return Swept((first, axes[0]), (second, axes[1]), table)


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def _heat(found: Swept, title: str) -> Callable[[Any], None]:
    """Each cell one run, the best one framed."""

    def paint(figure: Any) -> None:
        rows, columns = found.values.shape
        figure.set_size_inches(max(min(2.4 + 0.62 * columns, 12), 6.4), min(2 + 0.42 * rows, 10))
        axes = figure.subplots()
        image = axes.imshow(found.values, cmap="inferno", aspect="auto")
        low, high = np.nanmin(found.values), np.nanmax(found.values)
        for (y, x), value in np.ndenumerate(found.values):
            if not np.isnan(value):
                dark = value < (low + high) / 2
                axes.text(
                    x,
                    y,
                    f"{value:.1f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
        best = np.unravel_index(np.nanargmax(found.values), found.values.shape)
        axes.add_patch(_frame(int(best[1]), int(best[0])))
        axes.set_yticks(range(rows), found.rows[1])
        axes.set_xticks(range(columns), found.columns[1])
        axes.set(ylabel=found.rows[0], xlabel=found.columns[0])
        figure.colorbar(image, ax=axes, label="mIoU, %")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes.set_title(
            f"framed: the best, {high:.1f}; the more of the map is near it, the less the choice "
            "matters",
            fontsize=8,
            loc="left",
            color="#5b656c",
            wrap=True,
        )

    return paint


def _frame(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#1a75f0", linewidth=2.5)


def radar_values(
    groups: dict[str, list[Result]],
) -> tuple[list[str], dict[str, list[float]]] | None:
    """Three data sets or more, those that most lines share, and their mIoUs in percent there.

    A line is a method with one checkpoint; the best of a sweep counts. Runs that were told what is
    in a picture, or were given other words than the classes, are left out. None if no method was
    run on three.
    """
    known = [found for runs in groups.values() for found in runs]
    by: dict[str, dict[str, float]] = {}
    for key, runs in groups.items():
        for found in runs:
            settings = found.entry["protocol"]["settings"]
            if any(settings.get(name, usual) != usual for name, usual in USUAL.items()):
                continue
            line = found.method
            if len({f.checkpoint for f in known if f.method == line}) > 1:
                networks = (found.model["source"], *found.networks.values())
                line = ", ".join([line, *(Path(source).name for source in networks)])
            best = by.setdefault(line, {})
            best[key] = max(best.get(key, 0.0), 100 * found.entry["miou"])
    covered = {frozenset(v) for v in by.values() if len(v) >= FEWEST_AXES}
    if not covered:
        return None
    chosen = max(covered, key=lambda s: (sum(s <= set(v) for v in by.values()), len(s), sorted(s)))
    names = [key for key in groups if key in chosen]
    lines = {m: [v[k] for k in names] for m, v in by.items() if chosen <= set(v)}
    return names, dict(list(lines.items())[:MOST_LINES])


def _radar(
    names: list[str], lines: dict[str, list[float]], title: str, colours: dict[str, str]
) -> Callable[[Any], None]:
    """A spoke for each data set, all on one scale from 0."""

    def paint(figure: Any) -> None:
        figure.set_size_inches(6.4, 4.6)
        axes = figure.add_subplot(projection="polar")
        angles = [2 * math.pi * i / len(names) for i in range(len(names))]
        drawn: dict[str, int] = {}
        for name, values in lines.items():
            closed = [*values, values[0]]
            method = name.partition(", ")[0]
            style = ("-", "--", ":", "-.")[drawn.setdefault(method, 0) % 4]  # of checkpoints
            drawn[method] += 1
            colour = colours[method]
            axes.plot([*angles, 0.0], closed, style, marker="o", ms=3, color=colour, label=name)
            axes.fill([*angles, 0.0], closed, color=colour, alpha=0.08)
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        axes.set_xticks(angles, names)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="y", labelsize=7)
        axes.legend(loc="center left", bbox_to_anchor=(1.15, 0.5), fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes.set_title(
            "mIoU, %, farther out is better: a method that encloses another is better everywhere",
            fontsize=8,
            color="#5b656c",
            pad=18,
        )

    return paint
