"""Plot a training log: loss above, quality below, over CPU minutes; and thin the log.

    python training/plot_log.py LOG.jsonl PICTURE.png [--thin THINNED.jsonl] [--most 40000]

Wants matplotlib, which wordmask itself does not. Every nested number of a line ("quality": {...})
becomes a curve; curves that share their last key share a colour.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

OTHER = ("step", "loss", "seconds", "cpu_seconds", "scenes")


def curves(lines: list[dict]) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Give {path of keys: [(CPU minutes, value), ...]} of all nested numbers."""
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {}

    def walk(value: object, path: tuple[str, ...], minutes: float) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*path, key), minutes)
        elif len(path) > 1 and isinstance(value, (int, float)):
            found.setdefault(path, []).append((minutes, value))

    for line in lines:
        kept = {key: value for key, value in line.items() if key not in OTHER}
        walk(kept, (), line["cpu_seconds"] / 60)
    return found


def thin(lines: list[dict], most: int) -> list[dict]:
    """Keep the lines with a quality, and of the others every n-th so that all fit `most` bytes."""
    for every in range(1, len(lines) + 1):
        kept = [x for i, x in enumerate(lines) if "quality" in x or i % every == 0]
        if sum(len(json.dumps(x)) + 1 for x in kept) <= most:
            return kept
    raise SystemExit(f"the lines with a quality alone take more than {most} bytes; give --most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--thin", type=Path, help="write a shorter log here")
    parser.add_argument("--most", type=int, default=40_000, help="bytes of the shorter log")
    parser.add_argument("--leave-out", nargs="*", default=["groups"], help="keys not to plot")
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.log.read_text().splitlines()]
    if options.thin:
        short = thin(lines, options.most)
        options.thin.write_text("".join(json.dumps(line) + "\n" for line in short))

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    losses = [(x["cpu_seconds"] / 60, x["loss"]) for x in lines if "loss" in x]
    above.plot(*zip(*losses, strict=True), color="black", linewidth=1)
    above.set_ylabel("loss")
    above.set_title(options.title)
    shown = {path: at for path, at in curves(lines).items() if path[0] not in options.leave_out}
    names = list(dict.fromkeys(path[1:] for path in shown))
    groups = list(dict.fromkeys(path[0] for path, at in shown.items() if len(at) > 1))
    for path, at in shown.items():
        colour = f"C{names.index(path[1:]) % 10}"
        label = " ".join(path).replace("_", " ")
        if len(at) == 1:  # measured once: a level to compare with
            below.axhline(at[0][1], color=colour, linestyle=":", linewidth=1.2, label=label)
        else:
            style = ("-", "--", "-.")[groups.index(path[0]) % 3]
            below.plot(*zip(*at, strict=True), style, color=colour, label=label)
    below.set_ylabel("percent")
    below.set_xlabel("CPU minutes")
    below.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
