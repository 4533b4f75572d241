"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from wordmask.evaluation.examples import LIST
from wordmask.evaluation.report.grid import Grid
from wordmask.evaluation.summary import percent

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff;
       max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e3e6e8; }
th { border-bottom: 2px solid #9aa3a9; vertical-align: bottom; font-weight: 600; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.ours { background: #eef5fb; font-weight: 600; } th.ours { background: #eef5fb; }
td:first-child { min-width: 14rem; } td.text { white-space: nowrap; }
p.note { color: #5b656c; font-size: 13px; max-width: 60rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; }
.strips { display: grid; gap: 1rem;
          grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.strips figure { margin: 0; } figcaption { font-size: 12.5px; color: #3a4248; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
        margin: 0 .25em 0 .6em; vertical-align: -1px; }
code { font-size: 12.5px; }
summary { font-size: 1.15rem; font-weight: 600; margin: 1rem 0 .5rem; cursor: pointer; }
"""


def table(grid: Grid) -> str:
    """A table as HTML."""
    kinds = [
        "ours" if head == "ours" else "text" if words else ""
        for head, words in zip(grid.heads, grid.texts, strict=True)
    ]
    head = "".join(
        f'<th class="{kind}">{escape(text)}</th>'
        for kind, text in zip(kinds, grid.heads, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(text)}</td>' for kind, text in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in grid.rows
    )
    words = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(grid.note))
    note = f'<p class="note">{words}</p>' if words else ""
    body = f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>\n{note}'
    if grid.folded:
        return f"<details><summary>{escape(grid.title)}</summary>\n{body}</details>"
    return f"<h2>{escape(grid.title)}</h2>\n{body}"


@dataclass(frozen=True)
class Strip:
    """One drawn picture: its entry in `pictures.json`, its JPEG, and the folder of its run."""

    about: dict[str, Any]
    data: bytes
    folder: Path


def read_pictures(folders: Iterable[Path]) -> list[Strip]:
    """The pictures drawn for runs, from `pictures/pictures.json` in each folder."""
    strips = []
    for folder in dict.fromkeys(folders):
        path = folder / "pictures" / LIST
        if not path.is_file():
            continue
        for about in json.loads(path.read_bytes()):
            file = path.parent / about["file"]
            if file.is_file():
                strips.append(Strip(about, file.read_bytes(), folder))
    return strips


def render(
    own: Sequence[Grid],
    plots: Sequence[tuple[str, Path]],
    strips: Sequence[Strip],
    papers: Sequence[Grid],
) -> str:
    """The whole page: our own results, plots (SVG) and pictures, then the papers' tables."""
    parts = [table(grid) for grid in own]
    if plots:
        parts.append("<h2>Plots</h2>")
        parts += [
            f'<figure><img alt="{escape(title)}" src="{_inline(path.read_bytes(), "svg+xml")}">'
            f"<figcaption>{escape(title)}</figcaption></figure>"
            for title, path in plots
        ]
    if strips:
        parts.append("<h2>Best, median and worst pictures</h2>")
        parts.append(
            '<p class="note">By the mIoU of the picture alone, over the classes in its target. '
            "Shares after a class: in the target, in the prediction. What has no colour in the "
            "target is background, or not scored at all.</p>"
        )
        parts += _galleries(strips)
    parts += [table(grid) for grid in papers]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>wordmask report</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Report</h1>\n{body}\n</body></html>\n"
    )


def _galleries(strips: Sequence[Strip]) -> list[str]:
    parts = []
    galleries: dict[tuple[str, str], dict[Path, list[Strip]]] = {}
    for one in strips:
        folders = galleries.setdefault((one.about["dataset"], one.about["label"]), {})
        folders.setdefault(one.folder, []).append(one)
    for (dataset, label), folders in galleries.items():
        for folder, here in folders.items():
            which = f", {escape(str(folder))}" if len(folders) > 1 else ""
            parts.append(f"<h3>{escape(dataset)}: <code>{escape(label)}</code>{which}</h3>")
            parts.append('<div class="strips">' + "".join(_figure(s) for s in here) + "</div>")
    return parts


def _figure(strip: Strip) -> str:
    about = strip.about
    legend = "".join(
        f'<span class="chip" style="background:{one["colour"]}"></span>{escape(one["name"])} '
        f"{percent(one['target'])} / {percent(one['prediction'])}"
        for one in about["legend"][:6]
    )
    more = len(about["legend"]) - 6
    legend += f" and {more} more" if more > 0 else ""
    return (
        f'<figure><img alt="{escape(about["picture"])}" src="{_inline(strip.data, "jpeg")}">'
        f"<figcaption><b>{escape(about['group'])}</b>, {escape(about['picture'])}, mIoU "
        f"{percent(about['miou'])}<br>{legend}</figcaption></figure>"
    )


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
