"""`wordmask convert`: results in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import expand


@expand
def convert(
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="The --out folder of wordmask segment.")
    ],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            "-f",
            metavar="LIST",
            help="See `wordmask formats`.",
            show_default=False,
            autocompletion=complete.formats,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where to write; by default MASKS."),
    ] = None,
) -> None:
    """Write results of `wordmask segment` in other formats.

    wordmask convert masks --format coco,yolo-seg --out dataset
    """
    from wordmask.formats import convert

    with common.busy("converting"):
        made = convert(masks, common.split_list(",".join(formats)), out)
    print("\n".join(common.shown(path) for path in made))
