"""`wordmask report`: tables and plots of all runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli import common


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
    """Join runs into the papers' tables, with our column after each of theirs, plots and a page.

    Writes report.md, report.html (one self-contained file) and plots/ into DIR.
    """
    from wordmask.evaluation.report import report as make

    with common.busy("joining runs"):
        files = make(folder, partial)
    for path in files.values():
        print(common.shown(path))
