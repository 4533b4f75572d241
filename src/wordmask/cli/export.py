"""`wordmask export`: a CLIP and a method as ONNX graphs, which run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli import common
from wordmask.cli.groups import SOURCE, MethodOptions, ModelOptions, expand

MODEL = "Model"


@expand
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"A CLIP in transformers format: {SOURCE}.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the graphs.", show_default=False)
    ],
    method: MethodOptions,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|int8",
            help="Weights as they are, stored in half precision, or as 8-bit integers.",
            rich_help_panel=MODEL,
        ),
    ] = "fp32",
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Download nothing; use local files.", rich_help_panel=MODEL),
    ] = False,
) -> None:
    """Write a CLIP with a method as ONNX graphs, to run without torch.

    wordmask export openai/clip-vit-base-patch16 exported --method sclip

    wordmask segment photo.jpg --model exported --classes "cat; sofa, couch"

    Words, background and the size of pictures stay free. Methods with a second network, and those
    that cluster or take gradients, cannot be written; the message says which.
    """
    from wordmask.files import size_text
    from wordmask.onnx.export import export as write

    built, variant = method.read(model)
    loader = ModelOptions(model=model, device="cpu", dtype="float32", offline=offline)
    segmenter = loader.load(built, variant)
    with common.busy(f"exporting {built.name}"):
        made = write(segmenter, out, precision)
    width = max(map(len, made.files))
    for name, size in made.files.items():
        print(f"{name:{width}}  {size_text(size)}")
    print(f"features differ by at most {made.difference:.0e} of the largest from torch's")
    print(f"results in {common.shown(made.folder)}")
