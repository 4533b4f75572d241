"""Reports over several runs: tables, the papers' tables with our column, plots and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from wordmask.evaluation.report import page, plots
from wordmask.evaluation.report.costs import read_costs
from wordmask.evaluation.report.grid import Grid, latex_document
from wordmask.evaluation.report.runs import Result, read_runs
from wordmask.evaluation.report.tables import own_tables, paper_tables
from wordmask.files import write_atomically


def report(folder: Path, partial: bool = False) -> dict[str, Path]:
    """Write a report of all runs below a folder into it.

    Our own results come first, in report.md, report.html (one file) and report.tex alike: tables,
    plots, pictures; then the papers' tables with ours, and last the commands of those without.
    tables/ holds every table as CSV and as LaTeX (booktabs), plots/ every plot as SVG and PDF.
    runs.csv and classes.csv hold every number, unrounded, a line for each run or class.

    Args:
        folder: the folder of the runs; the report is written there too.
        partial: include incomplete data sets in the papers' tables, marked.

    Returns:
        The files by name.

    Raises:
        WordmaskError: no runs, or no matplotlib for the plots.
    """
    runs, costs = read_runs(folder), read_costs(folder)
    drawn = plots.draw(runs, folder / "plots")
    own, papers = own_tables(runs, costs), paper_tables(runs, partial, costs)
    texts = {
        "report.md": _markdown(own, papers, drawn),
        "report.html": page.render(
            own, drawn, page.read_pictures(f.folder for f in runs if f.folder), papers
        ),
        "report.tex": latex_document(own, [(t, f"{p.stem}.pdf") for t, p in drawn], papers),
        "runs.csv": _runs_csv(runs),
        "classes.csv": _classes_csv(runs),
    }
    for grid in (*own, *papers):
        texts |= {f"tables/{grid.slug}.csv": grid.csv(), f"tables/{grid.slug}.tex": grid.latex()}
    (folder / "tables").mkdir(exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, lambda file, t=text: file.write(t.encode()))  # type: ignore[misc]
    files = {name: folder / name for name in texts}
    return files | {f"plots/{path.name}": path for _, path in drawn}


def _markdown(own: Sequence[Grid], papers: Sequence[Grid], drawn: plots.Drawn) -> str:
    parts = ["# Report", *(grid.markdown() for grid in own)]
    if drawn:
        parts += ["## Plots", *(f"![{title}](plots/{path.name})" for title, path in drawn)]
    return "\n\n".join([*parts, *(grid.markdown() for grid in papers)]) + "\n"


def _runs_csv(runs: Sequence[Result]) -> str:
    """A line for each run and condition: what it is, and every number as a share or in seconds."""
    rows = []
    for found in runs:
        entry = found.entry
        row = {
            "run": found.name, "pictures": found.pictures, "dataset": entry["dataset"],
            "images": entry["images"], "expected": entry["expected"], "method": found.method,
            "protocol": found.protocol, "corruption": entry["condition"][0],
            "severity": entry["condition"][1], "clip": found.model["source"],
            "weights": found.model["weights"], "miou": entry["miou"],
        }  # fmt: skip
        row |= {f"network.{kind}": source for kind, source in found.networks.items()}
        row |= {f"swept.{key}": value for key, value in entry["swept"].items()}
        row |= {f"setting.{key}": v for key, v in entry["protocol"]["settings"].items()}
        row |= {f"metric.{key}": value for key, value in entry["metrics"].items()}
        for key, (low, high) in entry["intervals"].items():
            row |= {f"low.{key}": low, f"high.{key}": high}
        row |= {f"seconds.{key}": value for key, value in entry["seconds"].items()}
        rows.append(row)
    return _csv(rows)


def _classes_csv(runs: Sequence[Result]) -> str:
    """A line for each class of each run and condition."""
    return _csv(
        [
            {"run": found.name, "pictures": found.pictures, "corruption": corruption,
             "severity": severity, **one}
            for found in runs
            for corruption, severity in (found.entry["condition"],)
            for one in found.entry["classes"]
        ]
    )  # fmt: skip


def _csv(rows: Sequence[dict[str, object]]) -> str:
    file = io.StringIO()
    heads = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(file, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
