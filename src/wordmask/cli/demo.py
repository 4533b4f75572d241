"""`wordmask demo`: segment a built-in scene by every method, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli import common
from wordmask.cli.groups import DEFAULT_MODEL, expand
from wordmask.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table

    from wordmask.toybox.demo import Demo

GO_ON = (
    "Go on with a real CLIP (600 MB, loaded once) and your own photo: "
    f'wordmask segment photo.jpg --classes "cat; sofa" --model {DEFAULT_MODEL}'
)


@expand
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures.")
    ] = Path("wordmask-demo"),
) -> None:
    """Segment a rendered scene with the built-in networks; no download.

    scene.png: the picture. labels.png: the labels as pixel values. overlay.png: the labels over the
    picture. methods.png: the target and the labels of every method. Earlier files of these names
    are replaced.
    """
    common.make_folder(out)
    with common.busy("segmenting the demo scene"):
        from PIL import Image

        from wordmask.methods import METHODS
        from wordmask.options import missing_extras
        from wordmask.refiners import REFINERS
        from wordmask.toybox.demo import run_demo

        result = run_demo()
        _save(Image.fromarray(result.image), out / "scene.png")
        result.chosen.save(out / "labels.png")
        _save(result.overlay(), out / "overlay.png")
        _save(result.strip(), out / "methods.png")
    console = common.console()
    console.print(
        f"What {result.name} found on the demo scene, {len(result.words)} words to choose from:"
    )
    console.print(_found(result))
    console.print(
        "All methods on this one scene, chosen since CLIPer gets it right; the average over "
        "many: wordmask selftest"
    )
    console.print(_methods(result))
    left_out = missing_extras(METHODS, REFINERS)
    if left_out:
        names = " and ".join(left_out)
        print(f'Left out: {names}, which need a part of wordmask: pip install "wordmask[all]"')
    for name in ("scene.png", "labels.png", "overlay.png", "methods.png"):
        print(common.shown(out / name))
    print("The built-in networks were trained on rendered scenes like this one and nothing else.")
    print(GO_ON)


def _found(result: Demo) -> Table:
    from wordmask.drawing import percent

    table = _table("word", "found", "true", "IoU")
    for word, said, true, iou in result.found():
        table.add_row(word, percent(said), percent(true), percent(iou))
    return table


def _methods(result: Demo) -> Table:
    table = _table("method", "mIoU", "pixels right")
    for method in result.ranking():
        quality = result.quality[method]
        table.add_row(method, f"{100 * quality.mean_iou:.1f}", f"{100 * quality.pixels:.1f}")
    return table


def _table(first: str, *numbers: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, style="bold", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: picture.save(file, "PNG"))
