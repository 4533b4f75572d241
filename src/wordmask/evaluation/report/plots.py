"""Plots of runs: bars for each data set, sweeps, time against mIoU, calibration, corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wordmask.drawing import palette
from wordmask.errors import WordmaskError
from wordmask.evaluation.report.runs import Result
from wordmask.evaluation.report.sweeps import charts
from wordmask.files import write_atomically

INCH = 0.32  # of a bar
INK = "#1c2024"
GREY = "#8a949b"


def draw(runs: Sequence[Result], folder: Path) -> list[tuple[str, Path]]:
    """Draw all plots of the runs as PNG; returns titles and files.

    Raises:
        WordmaskError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise WordmaskError(
            'plots need matplotlib; install it with pip install "wordmask[evaluate]"'
        ) from None
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "text.color": INK,
        "legend.frameon": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(style):
        for title, name, paint in _plots(runs):
            figure = Figure(layout="constrained", dpi=150)
            paint(figure)
            path = folder / f"{name}.png"
            write_atomically(path, lambda file, f=figure: f.savefig(file, format="png"))  # type: ignore[misc]
            drawn.append((title, path))
    return drawn


def _plots(runs: Sequence[Result]) -> Iterator[tuple[str, str, Any]]:
    """Title, file name and painter of every plot."""
    clean = [found for found in runs if found.clean and found.entry["miou"] is not None]
    colours = _colours(clean)
    for key, here in _by_pictures(clean).items():
        entry = here[0].entry
        title = f"{entry['title']} ({entry['dataset']}), {entry['images']} pictures"
        best = _best_of_sweeps(here)
        yield title, f"bars-{key}", lambda f, b=best, t=title: _bars(f, b, t, colours)
        if len(best) > 1:
            name = f"{title}: time against mIoU"
            yield name, f"time-{key}", lambda f, b=best, n=name: _times(f, b, n, colours)
        sure = [f for f in best if f.entry["metrics"].get("calibration_error") is not None]
        if sure:
            name = f"{title}: calibration"
            yield name, f"calibration-{key}", lambda f, s=sure, n=name: _sure(f, s, n, colours)
        for option in dict.fromkeys(option for found in here for option in found.entry["swept"]):
            swept = [found for found in here if option in found.entry["swept"]]
            name = f"{title}: {option}"
            file = f"sweep-{key}-{option.replace('.', '-')}"
            yield name, file, lambda f, s=swept, o=option, n=name: _sweep(f, s, o, n, colours)
    yield from charts(_by_pictures(clean), colours)
    known = [found for found in runs if found.entry["miou"] is not None]
    for key, here in _by_pictures(known).items():
        if any(not found.clean for found in here):
            entry = here[0].entry
            name = f"{entry['title']} ({entry['dataset']}), {entry['images']} pictures: corrupted"
            yield name, f"corrupted-{key}", lambda f, h=here, n=name: _curves(f, h, n, colours)


def _by_pictures(runs: Sequence[Result]) -> dict[str, list[Result]]:
    """Runs on the same pictures, by the data set's name; `NAME-first-50` for a part of it."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for found in runs:
        groups.setdefault((found.entry["dataset"], found.entry["images"]), []).append(found)
    most: dict[str, int] = {}
    for dataset, images in groups:
        most[dataset] = max(images, most.get(dataset, 0))
    return {
        dataset if images == most[dataset] else f"{dataset}-first-{images}": here
        for (dataset, images), here in groups.items()
    }


def _colours(runs: Sequence[Result]) -> dict[str, str]:
    """One colour for each method, the same in all plots."""
    methods = list(dict.fromkeys(found.entry["protocol"]["entry"] for found in runs))
    rows = (0.85 * palette(len(methods))[1:]).astype("uint8").tolist()
    return {m: f"#{bytes(row).hex()}" for m, row in zip(methods, rows, strict=True)}


def _method(found: Result) -> str:
    return str(found.entry["protocol"]["entry"])


def _best_of_sweeps(runs: Sequence[Result]) -> list[Result]:
    """One run for each method, protocol and model: the plain one, or the best of a sweep."""
    best: dict[tuple[Any, ...], Result] = {}
    for found in sorted(runs, key=lambda f: (not f.entry["swept"], f.entry["miou"])):
        best[_method(found), found.entry["protocol"]["protocol"], found.model["weights"]] = found
    return list(best.values())


def _bars(figure: Any, runs: Sequence[Result], title: str, colours: dict[str, str]) -> None:
    """mIoU as bars with bootstrap intervals, and published numbers as lines."""
    figure.set_size_inches(6.4, 1.1 + INCH * len(runs))
    axes = figure.subplots()
    ordered = sorted(runs, key=lambda found: found.entry["miou"])
    published = False
    for row, found in enumerate(ordered):
        entry = found.entry
        value = 100 * entry["miou"]
        low, high = entry["intervals"][f"miou_{entry['protocol']['settings']['definition']}"]
        axes.barh(row, value, height=0.7, color=colours[_method(found)])
        axes.plot([100 * low, 100 * high], [row, row], color=INK, linewidth=1)
        axes.text(max(value, 100 * high) + 0.8, row, f"{value:.1f}", va="center", fontsize=8)
        for number in [n["value"] for n in entry["published"] if n["metric"] == "miou"][:1]:
            published = True
            axes.plot([number, number], [row - 0.4, row + 0.4], color=INK, linewidth=2)
    axes.set_yticks(range(len(ordered)), [_label(found, ordered) for found in ordered])
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])  # room for the numbers
    lines = "; thin line: 95 % interval" + ("; thick: published" if published else "")
    axes.set_xlabel(f"mIoU, %{lines}")
    _title(figure, title)


def _title(figure: Any, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")


def _label(found: Result, among: Sequence[Result]) -> str:
    """The shortest unique name of a run."""
    parts = [found.entry["label"]]
    if len({f.entry["protocol"]["protocol"] for f in among}) > 1:
        parts.append(found.entry["protocol"]["protocol"])
    if len({f.model["weights"] for f in among}) > 1:
        parts.append(Path(found.model["source"]).name)
    return ", ".join(parts)


def _times(figure: Any, runs: Sequence[Result], title: str, colours: dict[str, str]) -> None:
    """Milliseconds of a picture against mIoU."""
    figure.set_size_inches(6.4, 3.6)
    axes = figure.subplots()
    points = sorted((_milliseconds(found), 100 * found.entry["miou"], found) for found in runs)
    for x, y, found in sorted(points, key=lambda point: -point[1]):
        axes.scatter(x, y, s=36, color=colours[_method(found)], zorder=3, label=_label(found, runs))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xscale("log")
    low, high = min(x for x, _, _ in points), max(x for x, _, _ in points)
    axes.set_xlim(low / 1.25, high * 1.25)
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(color="#e3e6e8", linewidth=0.6)
    axes.set_xlabel("milliseconds for a picture, encode and decide")
    axes.set_ylabel("mIoU, %")
    _title(figure, title)


def _sure(figure: Any, runs: Sequence[Result], title: str, colours: dict[str, str]) -> None:
    """Accuracy over confidence, in bins that hold a thousandth of the pixels at least."""
    figure.set_size_inches(6.4, 3.6)
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":")
    for found in sorted(runs, key=lambda f: f.entry["metrics"]["calibration_error"]):
        curve = found.entry["calibration"]
        least = sum(curve["pixels"]) / 1000
        bins = zip(curve["pixels"], curve["confidence"], curve["accuracy"], strict=True)
        points = [(100 * x, 100 * y) for pixels, x, y in bins if pixels and pixels >= least]
        error = 100 * found.entry["metrics"]["calibration_error"]
        label, colour = f"{_label(found, runs)}: {error:.1f}", colours[_method(found)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=colour, label=label)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("accuracy, %")
    axes.grid(color="#e3e6e8", linewidth=0.6)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="error, %")
    _title(figure, title)


def _ticks(low: float, high: float) -> list[float]:
    steps = [m * 10**e for e in range(-1, 7) for m in (1, 2, 5)]
    inside = [step for step in steps if low / 1.25 <= step <= high * 1.25]
    return inside or [round(low, 1)]


def _milliseconds(found: Result) -> float:
    seconds = found.entry["seconds"]
    return max(1000 * float(seconds["encode"] + seconds["decide"]), 0.01)


def _sweep(
    figure: Any, runs: Sequence[Result], key: str, title: str, colours: dict[str, str]
) -> None:
    """mIoU over the values of one option, a line for each method and other setting."""
    figure.set_size_inches(6.4, 3.4)
    axes = figure.subplots()
    lines: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for found in runs:
        rest = [f"{k}={v}" for k, v in found.entry["swept"].items() if k != key]
        line = (_method(found), found.entry["protocol"]["protocol"], *rest)
        lines.setdefault(line, []).append((found.entry["swept"][key], 100 * found.entry["miou"]))
    values = list(dict.fromkeys(value for points in lines.values() for value, _ in points))
    numeric = all(_number(value) is not None for value in values)
    styles = ["-", "--", ":", "-."]
    drawn: dict[str, int] = {}
    methods = {line[0] for line in lines}
    shades = (0.85 * palette(len(lines))[1:] / 255).tolist()
    for line, points in lines.items():
        position = [_number(v) if numeric else values.index(v) for v, _ in points]
        ordered = sorted(zip(position, (y for _, y in points), strict=True))
        style = styles[drawn.setdefault(line[0], 0) % 4]
        drawn[line[0]] += 1
        name = " ".join([line[0], *line[2:]])
        x, y = zip(*ordered, strict=True)
        colour = colours[line[0]] if len(methods) > 1 else shades[list(lines).index(line)]
        axes.plot(x, y, style, marker="o", markersize=3.5, label=name, color=colour)
    low, high = axes.get_ylim()
    if high - low < 1:  # so that differences of less than a point do not look large
        axes.set_ylim((low + high - 1) / 2, (low + high + 1) / 2)
    if not numeric:
        axes.set_xticks(range(len(values)), values, rotation=20, ha="right")
    axes.set_xlabel(key)
    axes.set_ylabel("mIoU, %")
    axes.grid(color="#e3e6e8", linewidth=0.6)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _title(figure, title)


def _number(text: str) -> float | None:
    """A number, also that of a threshold: `threshold:0.3`."""
    try:
        return float(text.removeprefix("threshold:").removesuffix(":*"))
    except ValueError:
        return None


def _curves(figure: Any, runs: Sequence[Result], title: str, colours: dict[str, str]) -> None:
    """mIoU over the severity of every corruption, from the clean picture on."""
    kinds = list(dict.fromkeys(f.entry["condition"][0] for f in runs if not f.clean))
    figure.set_size_inches(1.8 + 2.0 * len(kinds), 2.7)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    by = {(f.name, *f.entry["condition"]): 100 * f.entry["miou"] for f in runs}
    names = {f.name: f for f in runs if not f.clean}
    for axes, kind in zip(panels, kinds, strict=True):
        for name, found in names.items():
            keys = [(name, "clean", 0), *((name, kind, severity) for severity in (1, 2, 3))]
            points = [(key[2], by[key]) for key in keys if key in by]
            label, colour = _label(found, list(names.values())), colours[_method(found)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker="o", markersize=3.5, color=colour, label=label)
        axes.set_xticks([0, 1, 2, 3], ["clean", "1", "2", "3"])
        axes.set_xlabel(kind)
        axes.grid(color="#e3e6e8", linewidth=0.6)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("mIoU, %")
    _title(figure, title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
