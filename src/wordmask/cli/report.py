"""`wordmask report`: all runs of a folder in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli import common


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Holds what `wordmask evaluate --out` wrote."),
    ],
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Put numbers of incomplete data sets into the papers' tables too, marked.",
        ),
    ] = False,
) -> None:
    """Join runs into the papers' tables, with our column after each of theirs, plots and a page.

    Writes report.md, report.html (one self-contained file) and plots/ into DIR.
    """
    from wordmask.evaluation.report import report as make

    with common.busy("joining runs"):
        files = make(folder, partial)
    for path in files.values():
        print(common.shown(path))
