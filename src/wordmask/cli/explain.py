"""`wordmask explain`: visualise attention, similarity and class scores of a method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli import common
from wordmask.cli.groups import MaxPixels, MethodOptions, ModelOptions, WordOptions, expand
from wordmask.errors import WordmaskError
from wordmask.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image


@expand
def explain(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="One picture.", show_default=False)
    ],
    words: WordOptions,
    method: MethodOptions,
    model: ModelOptions,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="A pixel of the picture, column and row, whose patch is shown.",
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
    """Draw a method's attention, layers and class scores for one picture.

    wordmask explain photo.jpg --classes "cat; sofa" --method clearclip --point 320,200

    NAME_attention.png: the attention of the patch at the point, in CLIP's last block as it is and
    with the method. NAME_layers.png: the similarity of all patches to it after every block and, for
    methods with several feature sets, the labels of each set. NAME_classes.png: the scores of the
    classes on one scale, and the labels. The picture is taken whole, windows are ignored. Earlier
    pictures of these names are replaced.
    """
    at = read_point(point)
    vocabulary, background = words.read()

    from wordmask import explain as pictures
    from wordmask.images import DEFAULT_MAX_PIXELS, read_image

    built, variant = method.read()
    model.check(built, None)
    limit = DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels or None
    photo = read_image(image, max_pixels=limit)
    pictures.check_point(at, photo)
    segmenter = model.load(built, variant, max_pixels=max_pixels)
    with common.busy("drawing"):
        drawn = {
            "attention": pictures.draw_attention(segmenter, photo, at),
            "layers": pictures.draw_layers(segmenter, photo, vocabulary, background, at),
            "classes": pictures.draw_classes(segmenter, photo, vocabulary, background),
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
