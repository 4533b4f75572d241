"""`wordmask report`: tables and plots of all runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli import common
from wordmask.cli.groups import expand


@expand
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder of `wordmask evaluate --out` or above."),
    ],
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Include numbers of incomplete data sets in the papers' tables, marked.",
        ),
    ] = False,
) -> None:
    """Join runs into tables, plots and a page, beside papers' numbers.

    Writes into DIR report.md, report.html (one self-contained file), report.tex, tables/ (each as
    CSV and LaTeX), plots/ (each as SVG and PDF), and runs.csv and classes.csv with all numbers. It
    also reads what `wordmask bench --out` measured below DIR.
    """
    from wordmask.evaluation.report import report as make

    with common.busy("joining runs"):
        files = make(folder, partial)
    for name in dict.fromkeys(name.partition("/")[0] for name in files):
        print(common.shown(folder / name))
