"""`wordmask explain`: pictures of what a method does with a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli import common
from wordmask.cli.groups import MaxPixels, ModelOptions, RefinedMethodOptions, WordOptions, expand
from wordmask.errors import WordmaskError
from wordmask.files import write_atomically
from wordmask.progress import stage, steps

if TYPE_CHECKING:
    from PIL import Image


def _list(wanted: bool) -> None:
    """Print the names of all pictures, what they are and what to see in them."""
    if not wanted:
        return
    from wordmask.explain import VIEWS

    for name, view in sorted(VIEWS.items()):
        print(f"{name}: {view.title}.")
        print(f"    {view.see}")
    raise typer.Exit


@expand
def explain(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="One picture.", show_default=False)
    ],
    words: WordOptions,
    method: RefinedMethodOptions,
    model: ModelOptions,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Which pictures, see --list; all: every one that fits.",
            show_default="attention, layers, classes, and refined with --refine",
            rich_help_panel="Pictures",
        ),
    ] = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list",
            callback=_list,
            is_eager=True,
            help="List the pictures that can be drawn, and stop.",
            rich_help_panel="Pictures",
        ),
    ] = False,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="A pixel of the picture, column and row, whose patch is shown. May be repeated.",
            show_default="the centre",
            rich_help_panel="Pictures",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the pictures.", rich_help_panel="Results"
        ),
    ] = Path("explained"),
    max_pixels: MaxPixels = None,
) -> None:
    """Draw what a method does: attention, clusters, scores and more.

    wordmask explain photo.jpg --classes "cat; sofa" --method clearclip --point 320,200

    wordmask explain photo.jpg --show embeddings,early-last,global

    Writes NAME_SHOW.png for each; every one says what to see. --list names them, and the figures
    of papers that they correspond to. The picture is taken whole, windows are ignored. Earlier
    pictures of these names are replaced.
    """
    points = [read_point(text) for text in point or ()]

    from wordmask import explain as pictures
    from wordmask.images import DEFAULT_MAX_PIXELS, read_image

    names = [name.strip() for name in (show or "").split(",") if name.strip()]
    if not names:
        names = [*pictures.DEFAULT, *(["refined"] if method.refine else [])]
    everything = names == ["all"]
    views = [pictures.find_view(name) for name in (pictures.VIEWS if everything else names)]
    needed = any(view.words for view in views) and not everything
    vocabulary, background = words.read() if words.given or needed else (None, None)
    built, variant = method.read(model.model)
    refiners = method.read_refiners()
    if everything:  # loads no auxiliary model that nobody asked for
        kinds = {kind for part in (built, *refiners) for kind in part.networks} | {*model.sources}
        views = [view for view in views if kinds >= {*view.networks}]
    also = {kind for view in views for kind in view.networks}
    model.check(built, refiners, also)
    limit = DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels or None
    photo = read_image(image, max_pixels=limit)
    for at in points:
        pictures.check_point(at, photo)
    if vocabulary is not None and background is not None:
        words.echo(vocabulary, background)
    segmenter = model.load(built, variant, refiners, max_pixels=max_pixels, also=also)
    subject = pictures.Subject(segmenter, photo, vocabulary, background, points)
    paths = []
    with common.busy("drawing"):
        for view in steps("pictures", views):
            try:
                with stage(view.name):
                    drawn = view.draw(subject)
            except pictures.NotDrawableError as error:
                if show is not None and not everything:
                    raise
                common.note(f"left out {view.name}: {error}")
                continue
            common.make_folder(out)
            paths.append(out / f"{image.stem}_{view.name}.png")
            _save(drawn, paths[-1])
    for path in paths:
        print(common.shown(path))


def read_point(text: str) -> tuple[int, int]:
    """Read `X,Y`."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise WordmaskError(
            f"got --point {text}; give column and row in pixels, as in 320,200"
        ) from None
    return x, y


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: picture.save(file, "PNG"))
