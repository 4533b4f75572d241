"""Plots of runs: bars for each data set, sweeps, time against mIoU, calibration, corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wordmask.drawing import palette
from wordmask.evaluation.report.runs import Result
from wordmask.evaluation.report.sweeps import charts
from wordmask.evaluation.report.tables import best_of_sweeps, interval
from wordmask.evaluation.summary import outside
from wordmask.extras import need
from wordmask.files import write_atomically

INCH = 0.32  # of a bar
INK = "#1c2024"
GREY = "#8a949b"
MARKERS = "osD^vP*X"  # of checkpoints
HATCHES = ("", "///", "...", "xxx", "\\\\\\\\", "++", "oo", "**")
Drawn = list[tuple[str, Path]]  # titles and files


def draw(runs: Sequence[Result], folder: Path) -> Drawn:
    """Draw all plots of the runs, each as SVG and PDF; returns titles and the SVG files.

    Raises:
        WordmaskError: matplotlib is not installed.
    """
    matplotlib = need("matplotlib", "evaluate", "a plot")
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "text.color": INK,
        "legend.frameon": False,
        "svg.hashsalt": "wordmask",  # equal runs give equal files
        "hatch.linewidth": 0.6,
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(style):
        for title, name, paint in _plots(runs):
            figure = Figure(layout="constrained", dpi=150)
            paint(figure)
            for kind, dated in (("pdf", "CreationDate"), ("svg", "Date")):
                path = folder / f"{name}.{kind}"
                save = partial(figure.savefig, format=kind, metadata={dated: None})
                write_atomically(path, save)
            drawn.append((title, path))
    return drawn


def _plots(runs: Sequence[Result]) -> Iterator[tuple[str, str, Any]]:
    """Title, file name and painter of every plot."""
    look = Look(runs)
    clean = [found for found in runs if found.clean and found.entry["miou"] is not None]
    for key, title, here in _by_pictures(clean):
        best = best_of_sweeps(here)
        yield title, f"bars-{key}", partial(_bars, runs=best, title=title, look=look)
        if len(best) > 1:
            name = f"{title}: time against mIoU"
            yield name, f"time-{key}", partial(_times, runs=best, title=name, look=look)
        sure = [f for f in best if f.entry["metrics"].get("calibration_error") is not None]
        if sure:
            name = f"{title}: calibration"
            yield name, f"calibration-{key}", partial(_sure, runs=sure, title=name, look=look)
        for option in dict.fromkeys(option for found in here for option in found.entry["swept"]):
            swept = [found for found in here if option in found.entry["swept"]]
            if option == "names":  # the released ones are a point of the line too
                lines = {(found.setting, found.checkpoint) for found in swept}
                swept = [found for found in here if (found.setting, found.checkpoint) in lines]
            if len({_value(found, option) for found in swept}) < 2:
                continue
            name = f"{title}: {option}"
            file = f"sweep-{key}-{option.replace('.', '-')}"
            yield name, file, partial(_sweep, runs=swept, key=option, title=name, look=look)
    colours = {found.method: look.colour(found) for found in clean}
    yield from charts({key: here for key, _, here in _by_pictures(clean)}, colours)
    known = [found for found in runs if found.entry["miou"] is not None]
    for key, title, here in _by_pictures(known):
        if any(not found.clean for found in here):
            name = f"{title}: corrupted"
            yield name, f"corrupted-{key}", partial(_curves, runs=here, title=name, look=look)


def _by_pictures(runs: Sequence[Result]) -> Iterator[tuple[str, str, list[Result]]]:
    """Runs on the same pictures, with a name for files and a title.

    The largest part of a data set has its name, `NAME-first-50` is another part of it, and sets
    of one name and size are numbered.
    """
    groups: dict[str, list[Result]] = {}
    for found in runs:
        groups.setdefault(found.pictures, []).append(found)
    first = {name: here[0].entry for name, here in groups.items()}
    taken: dict[str, int] = {}
    for name, here in groups.items():
        dataset, images = first[name]["dataset"], first[name]["images"]
        most = max(one["images"] for one in first.values() if one["dataset"] == dataset)
        key = dataset if images == most else f"{dataset}-first-{images}"
        taken[key] = taken.get(key, 0) + 1
        key += f"-{taken[key]}" if taken[key] > 1 else ""
        title = f"{first[name]['title']} ({dataset}), {images} pictures"
        place = name.removeprefix(f"{dataset} ({images}").strip(", )")
        yield key, f"{title}, {place}" if place else title, here


class Look:
    """Colours of settings, and markers and hatches of checkpoints, the same in all plots."""

    def __init__(self, runs: Sequence[Result]):
        methods = list(dict.fromkeys(found.setting for found in runs))
        rows = (0.85 * palette(len(methods))[1:]).astype("uint8").tolist()
        self.colours = {m: f"#{bytes(row).hex()}" for m, row in zip(methods, rows, strict=True)}
        clips = list(dict.fromkeys(found.clip for found in runs))
        networks: dict[tuple[str, str], list[str]] = {}
        for found in runs:
            known = networks.setdefault((found.setting, found.clip), [])
            known += [found.checkpoint] if found.checkpoint not in known else []
        self.ranks = {
            (setting, checkpoint): clips.index(clip) + len(clips) * i
            for (setting, clip), checkpoints in networks.items()
            for i, checkpoint in enumerate(checkpoints)
        }

    def colour(self, found: Result) -> str:
        """The colour of a run's method under its settings."""
        return self.colours[found.setting]

    def marker(self, found: Result) -> str:
        """The marker of a run's checkpoint."""
        return MARKERS[self.ranks[found.setting, found.checkpoint] % len(MARKERS)]

    def hatch(self, found: Result) -> str:
        """The hatch of a run's checkpoint."""
        return HATCHES[self.ranks[found.setting, found.checkpoint] % len(HATCHES)]


def _bars(figure: Any, runs: Sequence[Result], title: str, look: Look) -> None:
    """mIoU as bars with bootstrap intervals, and published numbers as lines."""
    longest = max(len(_label(found, runs)) for found in runs)
    figure.set_size_inches(6.4 + 0.06 * max(longest - 30, 0), 1.1 + INCH * len(runs))
    axes = figure.subplots()
    ordered = sorted(runs, key=lambda found: found.entry["miou"])
    published = False
    for row, found in enumerate(ordered):
        entry = found.entry
        value = 100 * entry["miou"]
        low, high = (value if x is None else 100 * x for x in interval(found))
        axes.barh(row, value, height=0.7, color=look.colour(found), hatch=look.hatch(found),
                  edgecolor="white", linewidth=0)  # fmt: skip
        axes.plot([low, high], [row, row], color=INK, linewidth=1)
        text = f"{value:.1f}" + ("†" if outside(entry) else "")
        axes.text(max(value, high) + 0.8, row, text, va="center", fontsize=8)
        for number in [n["value"] for n in entry["published"] if n["metric"] == "miou"][:1]:
            published = True
            axes.plot([number, number], [row - 0.4, row + 0.4], color=INK, linewidth=2)
    axes.set_yticks(range(len(ordered)), [_label(found, ordered) for found in ordered])
    axes.set_xlim(0, max(1.1 * axes.get_xlim()[1], 5))  # room for the numbers
    notes = ["thin line: 95 % interval", *(["thick: published"] if published else [])]
    if len({look.hatch(found) for found in runs}) > 1:
        notes.append("hatches: checkpoints")
    lines = ["mIoU, %", "; ".join(notes)]
    if any(outside(found.entry) for found in runs):
        lines.append("† outside its interval: resampled pictures lack some rarer classes")
    axes.set_xlabel("\n".join(lines))
    _title(figure, title)


def _title(figure: Any, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")


def _legend(figure: Any, axes: Any, title: str | None = None) -> None:
    """The legend below the axes, in a figure that grows with it."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) < 40 < 20 * len(labels) else 1
    rows = -(-len(labels) // columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    place = {"loc": "outside lower left", "ncols": columns, "alignment": "left"}
    figure.legend(handles, labels, fontsize=8, title=title, **place)


def _label(found: Result, among: Sequence[Result]) -> str:
    """The shortest unique name of a run."""
    labels = [one.entry["label"] for one in among]
    alike = len({(one.protocol, one.checkpoint) for one in among}) == 1
    unique = len(set(labels)) == len({one.name for one in among})
    return str(found.entry["label"]) if alike and unique else found.name


def _times(figure: Any, runs: Sequence[Result], title: str, look: Look) -> None:
    """Milliseconds of a picture against mIoU."""
    figure.set_size_inches(6.4, 3.6)
    axes = figure.subplots()
    points = [(_milliseconds(found), 100 * found.entry["miou"], found) for found in runs]
    for x, y, found in sorted(points, key=lambda point: -point[1]):
        axes.scatter(x, y, s=36, color=look.colour(found), marker=look.marker(found), zorder=3,
                     label=_label(found, runs))  # fmt: skip
    _legend(figure, axes)
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


def _sure(figure: Any, runs: Sequence[Result], title: str, look: Look) -> None:
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
        label, colour = f"{_label(found, runs)}: {error:.1f}", look.colour(found)
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker=look.marker(found), markersize=4, color=colour, label=label)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("accuracy, %")
    axes.grid(color="#e3e6e8", linewidth=0.6)
    _legend(figure, axes, title="error, %")
    _title(figure, title)


def _ticks(low: float, high: float) -> list[float]:
    steps = [m * 10**e for e in range(-1, 7) for m in (1, 2, 5)]
    inside = [step for step in steps if low / 1.25 <= step <= high * 1.25]
    return inside or [round(low, 1)]


def _milliseconds(found: Result) -> float:
    seconds = found.entry["seconds"]
    return max(1000 * float(seconds["encode"] + seconds["decide"]), 0.01)


def _sweep(figure: Any, runs: Sequence[Result], key: str, title: str, look: Look) -> None:
    """mIoU over the values of one option, a line for each method and other setting."""
    figure.set_size_inches(6.4, 3.4)
    axes = figure.subplots()
    lines: dict[tuple[str, ...], list[Result]] = {}
    for found in runs:
        rest = [f"{k}={v}" for k, v in found.entry["swept"].items() if k != key]
        lines.setdefault((found.method, found.protocol, found.checkpoint, *rest), []).append(found)
    values = list(dict.fromkeys(_value(found, key) for found in runs))
    numeric = all(_number(value) is not None for value in values)
    styles = ["-", "--", ":", "-."]
    drawn: dict[str, int] = {}
    methods = {line[0] for line in lines}
    several = len({line[1:3] for line in lines}) > 1
    shades = (0.85 * palette(len(lines))[1:] / 255).tolist()
    for line, members in lines.items():
        x, y = zip(
            *sorted(
                (_number(value) if numeric else values.index(value), 100 * found.entry["miou"])
                for found in members
                for value in (_value(found, key),)
            ),
            strict=True,
        )
        first = members[0]
        style = styles[drawn.setdefault(line[0], 0) % 4]
        drawn[line[0]] += 1
        model = [first.protocol, Path(first.model["source"]).name] if several else []
        colour = look.colour(first) if len(methods) > 1 else shades[list(lines).index(line)]
        axes.plot(x, y, style, marker=look.marker(first), markersize=4, color=colour,
                  label=" ".join([line[0], *line[3:], *model]))  # fmt: skip
    low, high = axes.get_ylim()
    if high - low < 1:  # so that differences of less than a point do not look large
        axes.set_ylim((low + high - 1) / 2, (low + high + 1) / 2)
    if not numeric:
        axes.set_xticks(range(len(values)), values, rotation=20, ha="right")
    axes.set_xlabel(key)
    axes.set_ylabel("mIoU, %")
    axes.grid(color="#e3e6e8", linewidth=0.6)
    _legend(figure, axes)
    _title(figure, title)


def _value(found: Result, option: str) -> str:
    """A run's value of a swept option, or of `names` where those of its protocol were kept."""
    return str(found.entry["swept"].get(option) or found.entry["protocol"]["settings"][option])


def _number(text: str) -> float | None:
    """A number, also that of a threshold: `threshold:0.3`."""
    try:
        return float(text.removeprefix("threshold:").removesuffix(":*"))
    except ValueError:
        return None


def _curves(figure: Any, runs: Sequence[Result], title: str, look: Look) -> None:
    """mIoU over the severity of every corruption, from the clean picture on."""
    kinds = list(dict.fromkeys(f.entry["condition"][0] for f in runs if not f.clean))
    figure.set_size_inches(max(1.8 + 2.0 * len(kinds), 6.4), 2.7)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    by = {(f.name, *f.entry["condition"]): 100 * f.entry["miou"] for f in runs}
    names = {f.name: f for f in runs if not f.clean}
    for axes, kind in zip(panels, kinds, strict=True):
        for name, found in names.items():
            keys = [(name, "clean", 0), *((name, kind, severity) for severity in (1, 2, 3))]
            points = [(key[2], by[key]) for key in keys if key in by]
            label, colour = _label(found, list(names.values())), look.colour(found)
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=look.marker(found), markersize=4, color=colour, label=label)
        axes.set_xticks([0, 1, 2, 3], ["clean", "1", "2", "3"])
        axes.set_xlabel(kind)
        axes.grid(color="#e3e6e8", linewidth=0.6)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("mIoU, %")
    _title(figure, title)
    _legend(figure, panels[0])
