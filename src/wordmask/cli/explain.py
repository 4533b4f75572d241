"""`wordmask explain`: pictures of what a method sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli import common
from wordmask.errors import WordmaskError
from wordmask.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image


def explain(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="One picture.", show_default=False)
    ],
    classes: common.Classes = None,
    classes_file: common.ClassesFile = None,
    background: common.BackgroundText = "auto",
    method: common.MethodName = "cliper",
    variant: common.Variant = None,
    assignments: common.Assignments = None,
    short_side: common.ShortSide = None,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="The patch that is followed, by a pixel of the picture: column and row.",
            show_default="the centre",
            rich_help_panel="Pictures",
        ),
    ] = None,
    model: common.Model = common.DEFAULT_MODEL,
    device: common.Device = None,
    dtype: common.Dtype = None,
    offline: common.Offline = False,
    vfm: common.Vfm = None,
    classifier: common.Classifier = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the pictures.", rich_help_panel="Results"
        ),
    ] = Path("explained"),
    max_pixels: common.MaxPixels = None,
) -> None:
    """Draw what a method sees in one picture.

    wordmask explain photo.jpg --classes "cat; sofa" --method clearclip --point 320,200

    NAME_attention.png: what the patch at the point attends to, in CLIP's last block as it is and
    with the method. NAME_layers.png: how similar all patches are to it after every block and, for
    methods that keep several feature sets, the labels that each gives. NAME_classes.png: the scores
    of the classes on one scale, and the labels. The picture is taken whole, windows are ignored.
    Earlier pictures of these names are replaced.
    """
    at = read_point(point)
    words = common.read_words(classes, classes_file)

    from wordmask import explain as pictures
    from wordmask.images import DEFAULT_MAX_PIXELS, read_image
    from wordmask.methods import create_method
    from wordmask.vocabulary import Background

    strategy = Background.parse(background)
    strategy.check(words)
    options = common.read_options(method, assignments, short_side)
    built, variant = create_method(method, variant, options)
    networks = common.read_networks(vfm=vfm, classifier=classifier)
    common.check_networks(networks, built)
    limit = DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels or None
    photo = read_image(image, max_pixels=limit)
    pictures.check_point(at, photo)
    segmenter = common.load_segmenter(
        model,
        method,
        variant,
        options,
        device=device,
        dtype=dtype,
        offline=offline,
        max_pixels=max_pixels,
        networks=networks,
    )
    with common.busy("drawing"):
        drawn = {
            "attention": pictures.draw_attention(segmenter, photo, at),
            "layers": pictures.draw_layers(segmenter, photo, words, strategy, at),
            "classes": pictures.draw_classes(segmenter, photo, words, strategy),
        }
        common.make_folder(out)
        for name, picture in drawn.items():
            _save(picture, out / f"{image.stem}_{name}.png")
    for name in drawn:
        print(common.shown(out / f"{image.stem}_{name}.png"))


def read_point(text: str | None) -> tuple[int, int] | None:
    """Read `X,Y`."""
    if text is None:
        return None
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise WordmaskError(
            f"got --point {text}; give column and row in pixels, as in 320,200"
        ) from None
    return x, y


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: picture.save(file, "PNG"))
