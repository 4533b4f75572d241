"""`wordmask bench`: measure the cost of each method on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import ModelOptions, expand
from wordmask.errors import WordmaskError

if TYPE_CHECKING:
    from rich.table import Table


@expand
def bench(
    *,
    methods: Annotated[
        str | None,
        typer.Argument(
            metavar="METHODS",
            help="Methods, as in clip,cliper:paper (a variant after a colon), or FILE.py:NAME.",
            show_default="all with available networks",
            autocompletion=complete.entries,
        ),
    ] = None,
    model: ModelOptions,
    random: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Random weights in the shape of this CLIP, such as openai/clip-vit-base-patch16, "
            "and of the VFM: time and memory are the same, and nothing is loaded.",
            rich_help_panel="Model",
        ),
    ] = None,
    refine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REFINERS",
            help="Measure each method with these refiners as well, as in pamr or diffusion,pamr. "
            "May be repeated.",
            autocompletion=complete.refiners,
            rich_help_panel="Method",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="An option of the methods; may be repeated.",
            rich_help_panel="Method",
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Size of the network's input, in pixels; one number for a square.",
            rich_help_panel="Setting",
        ),
    ] = "336",
    batch: Annotated[
        int, typer.Option(metavar="COUNT", help="Pictures per batch.", rich_help_panel="Setting")
    ] = 1,
    words: Annotated[
        int,
        typer.Option(metavar="COUNT", help="Number of classes.", rich_help_panel="Setting"),
    ] = 20,
    rounds: Annotated[
        int,
        typer.Option(metavar="COUNT", help="Number of timed rounds.", rich_help_panel="Setting"),
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Write bench.json and bench.md there as well."
        ),
    ] = None,
) -> None:
    """Measure parameters, FLOPs, time and memory of methods.

    A round is encoding and labelling a batch of random pixels, with words that are encoded already.
    """
    if as_json and markdown:
        raise WordmaskError("got both --json and --markdown; give one of them")
    height, width = read_size(size)
    named = None if methods is None else [part.strip() for part in methods.split(",")]

    from wordmask.devices import pick_device, pick_dtype
    from wordmask.evaluation import cost as costs
    from wordmask.towers.families import load_clip

    flags = [*model.kinds, *(["vfm"] if random else [])]
    chosen = costs.candidates(named, refine or (), flags)
    networks: dict[str, Any] = dict(model.sources)
    random_vfm = random is not None and "vfm" not in networks
    place = pick_device(model.device)
    kind = pick_dtype(model.dtype, place)
    with common.busy(f"loading {random or model.model}"):
        if random is None:
            source, offline = model.model, model.offline
            clip = load_clip(source, device=place, dtype=kind, local_files_only=offline).model
        else:
            clip = costs.random_clip(random, place, kind)
        if random_vfm:
            networks["vfm"] = costs.random_vfm(place, kind)
    settings = {
        "model": f"{random} (random weights)" if random else model.model,
        "size": f"{height} x {width}",
        "batch": batch,
        "words": words,
        "rounds": rounds,
        **costs.conditions(place, kind),
        **({"set": options} if options else {}),
    }
    if random_vfm:
        settings["vfm"] = f"{costs.RANDOM_VFM} (random weights)"
    with common.progress_bar() as bar:
        task = bar.add_task("measuring", total=len(chosen), unit="methods")
        rows = costs.measure(
            clip,
            chosen,
            size=(height, width),
            batch=batch,
            words=words,
            rounds=rounds,
            networks=networks,
            local_files_only=model.offline,
            options=options or (),
            report=lambda _: bar.advance(task),
        )
    texts = {
        "bench.json": json.dumps(costs.to_json(rows, settings), indent=2, ensure_ascii=False),
        "bench.md": costs.to_markdown(rows, settings),
    }
    if out is not None:
        common.make_folder(out)
        for name, text in texts.items():
            (out / name).write_text(text + "\n", encoding="utf-8")
    if as_json or markdown:
        print(texts["bench.json" if as_json else "bench.md"])
        return
    console = common.console()
    console.print(_table(costs.table(rows)))
    console.print(", ".join(f"{name} {value}" for name, value in settings.items()), style="dim")
    console.print(costs.NOTE, style="dim")


def read_size(text: str) -> tuple[int, int]:
    """`336x448` as height and width; `336` is a square."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise WordmaskError(f"got --size {text}; give HEIGHTxWIDTH in pixels, as in 336x448")
    return int(parts[0]), int(parts[-1])


def _table(rows: list[list[str]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(rows[0]):
        side: Any = "left" if i < 2 else "right"
        table.add_column(name.replace(" (", "\n("), justify=side, no_wrap=i != 1, overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    return table
