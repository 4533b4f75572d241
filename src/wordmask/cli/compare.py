"""`wordmask compare`: the same pictures under several methods, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import MaxPixels, ModelOptions, WordOptions, expand
from wordmask.cli.protocol import ProtocolName
from wordmask.errors import WordmaskError

PICTURES, BENCHMARK = "Pictures", "Pictures of a benchmark"


@expand
def compare(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTOS", help="Pictures, folders.", show_default=False),
    ] = None,
    *,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="METHOD[,METHOD...]",
            help="METHOD[:VARIANT][+REFINER]..., as in clip,cliper,cliper+diffusion.",
            autocompletion=complete.entries,
            rich_help_panel="Method",
        ),
    ] = "clip,sclip,clearclip,naclip,cliper",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="An option of all methods, METHOD.OPTION=VALUE of one, or REFINER.OPTION=VALUE. "
            "May be repeated.",
            rich_help_panel="Method",
        ),
    ] = None,
    words: WordOptions,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Targets of your photos: NAME.png with one index per pixel, i the i-th class, 0 "
            "none of them, 255 left out.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="In place of photos, see `wordmask datasets list`.",
            autocompletion=complete.datasets,
            rich_help_panel=BENCHMARK,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of the data set.", rich_help_panel=BENCHMARK),
    ] = None,
    protocol: ProtocolName = "official",
    pictures: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            help="How many pictures of it, evenly spaced.",
            rich_help_panel=BENCHMARK,
        ),
    ] = 4,
    ids: Annotated[
        str | None,
        typer.Option(metavar="ID[,ID...]", help="These pictures of it.", rich_help_panel=BENCHMARK),
    ] = None,
    model: ModelOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The sheet: FILE.png, or FILE.html, one self-contained page.",
            rich_help_panel="Results",
        ),
    ] = Path("compared.png"),
) -> None:
    """Show the same pictures under several methods, side by side.

    wordmask compare photos/ -c "cat; sofa" --methods clip,clearclip,cliper,cliper+diffusion

    wordmask compare --dataset voc21 --root data --pictures 4 --methods sclip,proxyclip,cliper

    Photos are segmented with the methods' own defaults, pictures of a benchmark under a protocol. A
    colour stands for one class on the whole sheet, and the legend is below. The same networks serve
    all methods.
    """
    from wordmask import compare as sheets
    from wordmask.evaluation.protocols import Entry
    from wordmask.methods import create_method
    from wordmask.refiners import read_refiners

    sheets.check_suffix(out)
    names = common.split_list(methods)
    if bool(photos) == bool(dataset):
        raise WordmaskError("give either photos or --dataset, to compare methods on")
    entries = [Entry.parse(name) for name in names]
    if not entries:
        raise WordmaskError("got no method; give --methods as in clip,cliper+diffusion")
    if dataset:
        if words.given or targets is not None:
            raise WordmaskError(f"{dataset} has its own classes and targets; leave yours out")
        from wordmask.evaluation.plan import Plan

        plan = Plan(
            methods=names,
            datasets=(dataset,),
            root=root,
            model=model.model,
            protocol=protocol,
            settings=tuple(assignments or ()),
            networks=model.sources,
            device=model.device,
            dtype=model.dtype,
            offline=model.offline,
        )
        with common.busy("segmenting"):
            sheet = sheets.compare_benchmark(plan, pictures, common.split_list(ids or ""))
    else:
        from wordmask.images import find_images

        vocabulary, background = words.read()
        found = find_images([str(photo) for photo in photos or ()])
        built, variant = create_method(entries[0].method, entries[0].variant)
        parts = [create_method(entry.method, entry.variant)[0] for entry in entries]
        refiners = [one for entry in entries for one in read_refiners(entry.refiners)]
        kinds = {kind for part in (*parts, *refiners) for kind in part.networks}
        words.echo(vocabulary, background)
        segmenter = model.load(built, variant, refiners, max_pixels=max_pixels, also=kinds)
        with common.busy("segmenting"):
            sheet = sheets.compare(
                segmenter, found, vocabulary, names, background, targets, assignments or ()
            )
    common.make_folder(out.parent)
    sheet.save(out)
    print(common.shown(out))
