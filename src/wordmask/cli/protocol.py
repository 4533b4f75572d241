"""`wordmask protocol`: print every setting that a number depends on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli import common, complete

if TYPE_CHECKING:
    from rich.table import Table

    from wordmask.evaluation.protocols import Protocol

ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        "-p",
        metavar="NAME",
        help="official: the settings of a method's released code, data set by data set; paper: "
        "those that its paper states; untuned: one fixed setting for all methods and data sets.",
        autocompletion=complete.protocol,
    ),
]


def protocol(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="METHOD[:VARIANT][+REFINER]..., as in cliper, cliper:official-v1+diffusion.",
            autocompletion=complete.entries,
        ),
    ],
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="See `wordmask datasets list`.",
            autocompletion=complete.datasets,
        ),
    ],
    name: ProtocolName = "official",
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Released settings may differ by it: ViT-B/16, ViT-L/14."
        ),
    ] = "ViT-B/16",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Change a setting, as in short_side=448 or background=threshold:0.3:*. May be "
            "repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every setting that a number depends on, and its source.

    wordmask protocol cliper voc21 --backbone ViT-L/14
    """
    from wordmask.evaluation.protocols import make_protocol

    made = make_protocol(method, dataset, name, backbone, assignments or ())
    if as_json:
        print(json.dumps(made.describe(), indent=2, ensure_ascii=False))
        return
    console = common.console()
    console.print(tabulate(made))
    console.print(f"released: {made.source}." if made.name == "official" else f"{made.source}.")
    for note in made.notes:
        console.print(f"- {note}")


def tabulate(made: Protocol) -> Table:
    """The settings as a table, those of the benchmark's side first."""
    from rich import box
    from rich.table import Table

    from wordmask.evaluation.protocols import FIELDS, write

    title = f"{made.entry} on {made.dataset}, {made.backbone}: {made.name}"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold"
    )
    table.add_column("setting", no_wrap=True)
    table.add_column("value")
    table.add_column("from", no_wrap=True, style="dim")
    flat = made.settings()
    for key in [*FIELDS, *(key for key in flat if key not in FIELDS)]:
        origin = made.origins.get(key, "default")
        style = None if origin == "default" else "bold"
        value = write(flat[key])
        if key == "resample":
            value += " (antialiased)" if value.startswith("pil") else " (not antialiased)"
        table.add_row(key, value, origin, style=style)
    return table
