"""Draw loss and quality over time of the shipped networks' training logs.

    python training/plot_log.py            # training/logs/*.jsonl to docs/images/training-*.png

Needs matplotlib (`pip install "wordmask[evaluate]"`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
# Of each network its panels: title, unit of the vertical axis, and which entry is which line.
Panel = tuple[str, str, dict[str, str]]
PANELS: dict[str, list[Panel]] = {
    "tiny-clip": [
        ("Training loss", "sigmoid loss, all groups of views", {"": "loss"}),
        (
            "Scenes of trained looks",
            "mIoU, 64 scenes, 20 words (%)",
            {
                "without attention": "quality/identity alone/miou",
                "v-v attention": "quality/v-v alone/miou",
                "q-q attention": "quality/q-q alone/miou",
                "plain last block": "quality/plain/miou",
            },
        ),
        (
            "Scenes of looks held out",
            "pixels of things named right (%)",
            {
                "without attention": "held_out/identity alone/things",
                "v-v attention": "held_out/v-v alone/things",
                "q-q attention": "held_out/q-q alone/things",
                "plain last block": "held_out/plain/things",
            },
        ),
    ],
    "tiny-vfm": [
        ("Training loss", "cross-entropy of the seams", {"": "loss"}),
        ("One part or two?", "AUC of cosines (%)", {"": "quality/auc"}),
        (
            "A coarse, noisy map of the parts",
            "mIoU, 32 scenes (%)",
            {
                "after ProxyCLIP's attention": "quality/miou_after",
                "the same, offset added": "with_offset/miou_after",
                "as it is": "quality/miou_before",
            },
        ),
    ],
    "tiny-diffusion": [
        ("Training loss: noise", "squared error, any time step", {"": "loss"}),
        ("Training loss: seams", "cross-entropy", {"": "seams"}),
        (
            "A coarse, noisy map of the parts",
            "mIoU, 8 scenes (%)",
            {
                "after CLIPer's chain": "quality/after 0.1",
                "as it is": "quality/before",
                "only blurred": "quality/blurred",
            },
        ),
    ],
}
X = "CPU time (minutes)"


def read(path: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Read a log; where a run went back to a checkpoint, the later line of a step counts."""
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
    lines = [line for line in lines if stage is None or line.get("stage") == stage]
    kept = {line["step"]: line for line in lines}
    return [kept[step] for step in sorted(kept)]


def series(lines: list[dict[str, Any]], entry: str) -> tuple[list[float], list[float]]:
    """Give minutes and values of an entry such as "quality/auc" where a line has it."""
    minutes, values = [], []
    for line in lines:
        found: Any = line
        for key in entry.split("/"):
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            minutes.append(line["cpu_seconds"] / 60)
            values.append(found)
    return minutes, values


def draw(name: str, log: Path, picture: Path) -> None:
    """Draw the panels of one network."""
    lines = read(log, "unet" if name == "tiny-diffusion" else None)
    panels = PANELS[name]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.4), layout="constrained"
    )
    for axis, (title, unit, shown) in zip(axes, panels, strict=True):
        for label, entry in shown.items():
            minutes, values = series(lines, entry)
            flat = len(values) > 1 and max(values) - min(values) < 1e-9
            axis.plot(minutes, values, "--" if flat else "-", lw=1.6, label=label or None)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(X)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if all(shown):
            axis.legend(frameon=False, fontsize=9)
    figure.suptitle(f"wordmask/{name}: training")
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Draw every log that is there."""
    for name in PANELS:
        log = ROOT / "training" / "logs" / f"{name}.jsonl"
        if log.exists():
            draw(name, log, ROOT / "docs" / "images" / f"training-{name}.png")


if __name__ == "__main__":
    main()
