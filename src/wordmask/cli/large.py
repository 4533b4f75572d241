"""`wordmask large`: maps, slides and other pictures of any size, tile by tile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common
from wordmask.cli.groups import FullMethodOptions, ModelOptions, WordOptions, expand, whole_number

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

TILES, RASTER, RESULTS = "Tiles", "Picture", "Results"


@expand
def large(
    picture: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURE",
            help="Any raster that GDAL reads: GeoTIFF, TIFF, PNG, JPEG, JPEG 2000 ...",
            show_default=False,
        ),
    ],
    words: WordOptions,
    method: FullMethodOptions,
    model: ModelOptions,
    tile: Annotated[
        int,
        typer.Option(
            parser=whole_number,
            metavar="PIXELS",
            help="Side of a tile. The method resizes each tile as it does a photograph: smaller "
            "tiles show more detail, larger ones more surroundings.",
            rich_help_panel=TILES,
        ),
    ] = 1024,
    overlap: Annotated[
        int,
        typer.Option(
            parser=whole_number,
            metavar="PIXELS",
            help="Of neighbouring tiles; at most a third of a tile.",
            rich_help_panel=TILES,
        ),
    ] = 128,
    join: Annotated[
        str,
        typer.Option(
            metavar="blend|crop",
            help="Mix the scores of tiles where they overlap, or cut tiles in the middle of it: "
            "faster, and for methods that do not decide pixel by pixel.",
            rich_help_panel=TILES,
        ),
    ] = "blend",
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Bands of red, green and blue, counted from 1, as in 4,3,2; or one.",
            show_default="what the file calls red, green and blue",
            rich_help_panel=RASTER,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="The values that become black and white, as in 0,3000; with %, percentiles of "
            "each band.",
            show_default="8 bits: as they are; else 2%,98%",
            rich_help_panel=RASTER,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.tif",
            help="The map of labels, a cloud-optimised GeoTIFF; FILE.json is the summary, FILE.jpg "
            "a small picture.",
            rich_help_panel=RESULTS,
        ),
    ] = Path("labels.tif"),
    polygons: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Polygons with class, pixels, share and area: .gpkg or .geojson.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace results, and what is left of a run with other settings.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
) -> None:
    """Label a picture of any size, tile by tile: aerial pictures, scans.

    wordmask large field.tif --classes "crop; forest; water; road" --out labels.tif

    Memory depends on the tile and not on the picture. CRS, transform and nodata are kept. A run
    that was stopped goes on where it was.

    Exit codes: 0 success, 2 wrong usage, bad input or results that cannot be written, 130
    interrupted.
    """
    vocabulary, background = words.read()

    from wordmask.large.job import LargeJob

    job = LargeJob(
        picture,
        out,
        vocabulary,
        background,
        tile,
        overlap,
        join,
        bands,
        scale,
        polygons,
        overwrite,
    )
    built, variant = method.read(model.model)
    refiners = method.read_refiners()
    words.echo(vocabulary, background)
    segmenter = model.load(built, variant, refiners)
    with common.progress_bar() as bar:
        task: TaskID | None = None

        def report(done: int, total: int) -> None:
            nonlocal task
            if task is None:  # what an earlier run did is there already
                task = bar.add_task("segmenting", total=total, unit="tiles", already=done)
            bar.update(task, completed=done)

        summary = job.run(segmenter, report)
    _print_end(job.results, summary)


def _table(summary: dict[str, Any]) -> Table:
    """Classes found, most pixels first."""
    from rich import box
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    from wordmask.drawing import UNLABELLED, palette, percent

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=2)
    table.add_column("class", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("pixels", justify="right", no_wrap=True)
    colours = palette(len(summary["classes"])).tolist()
    found = [one for one in summary["classes"] if one["pixels"]]
    for one in sorted(found, key=lambda one: -one["pixels"]):
        red, green, blue = colours[one["label"]]
        chip = Text("  ", Style(bgcolor=f"rgb({red},{green},{blue})"))
        name = Text(common.one_line(one["name"], common.LONGEST_NAME))
        table.add_row(chip, name, percent(one["share"]), f"{one['pixels']:,}")
    rest = summary["unlabelled"]
    if rest["pixels"]:
        table.add_row("", UNLABELLED, percent(rest["share"]), f"{rest['pixels']:,}", style="dim")
    if summary["nodata"]["pixels"]:
        table.add_row("", "no data", "", f"{summary['nodata']['pixels']:,}", style="dim")
    return table


def _print_end(files: list[Path], summary: dict[str, Any]) -> None:
    """Print the classes, the seams and the files."""
    common.console().print(_table(summary))
    size = f"{summary['width']} x {summary['height']} pixels, {summary['tiles']} tiles"
    print(f"{size} in {summary['seconds']:.0f} s")
    seams = summary["seams"]
    if seams["at_seams"] is not None:
        print(
            f"seams: neighbouring pixels differ at {100 * seams['at_seams']:.2f} % of the places "
            f"where tiles meet, and at {100 * (seams['elsewhere'] or 0):.2f} % elsewhere"
        )
    if summary["polygons"] is not None:
        print(f"{summary['polygons']} polygons")
    print("\n".join(common.shown(file) for file in files))
