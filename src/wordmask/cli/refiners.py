"""`wordmask refiners`: list the refiners, or show one in full."""

from __future__ import annotations

from typing import Annotated

import typer

from wordmask.cli import complete
from wordmask.cli.methods import show


def refiners(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show one in full, also FILE.py:NAME.",
            show_default=False,
            autocompletion=complete.refiner_name,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the refiners, or show the variants and options of one."""
    from wordmask.refiners import REFINERS, Refiner

    show(REFINERS, Refiner, name, as_json)
