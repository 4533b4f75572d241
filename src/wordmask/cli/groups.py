"""Groups of options that commands share: one parameter of a command is a group of options.

    @expand
    def command(image: Path, words: WordOptions, model: ModelOptions) -> None: ...

An option of a group is a field of its dataclass; the flags of auxiliary models come from
`towers.auxiliary.KINDS`. Neither torch nor a method is loaded before a command runs.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import typer

from wordmask.cli import complete
from wordmask.cli.common import LONGEST_NAME, busy, note, one_line
from wordmask.errors import WordmaskError, unknown
from wordmask.files import shown
from wordmask.progress import quietly
from wordmask.towers.auxiliary import DEFAULT_CLIP, KINDS
from wordmask.towers.built_in import own_options

if TYPE_CHECKING:
    from wordmask.methods import Method
    from wordmask.refiners import Refiner
    from wordmask.segmenter import Segmenter
    from wordmask.vocabulary import Background, Vocabulary

DEFAULT_MODEL = DEFAULT_CLIP
MOST_SHOWN = 12  # classes that are echoed
WORDS, METHOD, MODEL = "Words", "Method", "Model"
NETWORKS = "Networks of methods and refiners"
SOURCE = "a hub id (owner/name or owner/name@revision), a folder, or FILE.py:FUNCTION"


def whole_number(text: str | int) -> int:
    """Read a whole number of a command line; a default is one already."""
    if isinstance(text, int):
        return text
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"got {text!r}; give a whole number, 0 or more, in digits")
    if len(text) > 18:
        raise typer.BadParameter(f"got a number of {len(text)} digits; give at most 18")
    return int(text)


def side_length(text: str) -> Any:
    """Read a length in pixels, or `none`."""
    if text == "none":
        return text
    if whole_number(text) == 0:
        raise typer.BadParameter("got 0; give a length in pixels, or none")
    return whole_number(text)


MaxPixels = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="COUNT",
        help="Refuse pictures with more pixels; 0 for no limit.",
        show_default="128 million",
        rich_help_panel="Pictures",
    ),
]
LowMemory = Annotated[
    bool,
    typer.Option(
        "--low-memory",
        help="Hold one network in memory at a time: slower, since networks are loaded again.",
        rich_help_panel=MODEL,
    ),
]


@dataclass(frozen=True)
class Group:
    """Options that belong together; every field is one."""

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """The options as parameters of a command."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return [
            _parameter(item.name, hints[item.name], item.default)
            for item in dataclasses.fields(cls)
            if item.default is not dataclasses.MISSING
        ]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Group:
        """The group from the values of its parameters."""
        return cls(**values)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


Command = TypeVar("Command", bound=Callable[..., Any])

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print nothing but results, warnings and errors: no progress."
    ),
]


def expand(command: Command) -> Command:
    """Turn a function into a command with `--quiet`; a parameter that is a group is its options."""
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Group], list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if isinstance(hints[name], type) and issubclass(hints[name], Group):
            own = hints[name].parameters()
            groups[name] = hints[name], [one.name for one in own]
            parameters += own
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))
    parameters.append(_parameter("quiet", Quiet, False))

    def run(quiet: bool = False, **values: Any) -> Any:
        for name, (group, names) in groups.items():
            values[name] = group.of({one: values.pop(one) for one in names})
        with quietly(quiet):
            return command(**values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return typing.cast(Command, run)


@dataclass(frozen=True)
class WordOptions(Group):
    """The classes and the background."""

    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            "-c",
            metavar="NAMES",
            help="The classes. This text is split at ';' into classes and at ',' into the synonyms "
            'of one class: "cat; sofa, couch" is two classes. May be repeated, which adds up.',
            rich_help_panel=WORDS,
        ),
    ] = None
    classes_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The classes from a file: one per line, taken whole, synonyms after a tab; or "
            ".json.",
            rich_help_panel=WORDS,
        ),
    ] = None
    background: Annotated[
        str,
        typer.Option(
            "--background",
            "-b",
            metavar="RULE",
            help="How pixels that show none of the words are found: auto (by general scene "
            "words), negatives (by 64 names far from yours; or negatives:N), none (every pixel "
            "gets a word), threshold:0.3, complement:2, or names:sky;wall.",
            autocompletion=complete.background,
            rich_help_panel=WORDS,
        ),
    ] = "auto"

    @property
    def given(self) -> bool:
        """Whether there are classes."""
        return bool(self.classes) or self.classes_file is not None

    def read(self) -> tuple[Vocabulary, Background]:
        """Words and background strategy; `--classes` or `--classes-file` is required."""
        from wordmask.vocabulary import Background, Vocabulary

        if self.classes and self.classes_file is not None:
            raise WordmaskError("got both --classes and --classes-file; give one of them")
        if self.classes:
            words = Vocabulary.parse(*self.classes)
        elif self.classes_file is not None:
            words = Vocabulary.from_file(self.classes_file)
        else:
            raise WordmaskError(
                'no classes given; use --classes "cat; sofa, couch" or --classes-file FILE'
            )
        strategy = Background.parse(self.background)
        strategy.check(words)
        return words, strategy

    def echo(self, words: Vocabulary, background: Background) -> None:
        """Say which classes were understood, and where a comma may have been meant otherwise."""
        count = len(words)
        parts = [_with_synonyms(names) for names in words.classes[:MOST_SHOWN]]
        parts += [f"and {count - MOST_SHOWN:,} more"] if count > MOST_SHOWN else []
        note(f"{count:,} {'class' if count == 1 else 'classes'}: {'; '.join(parts)}")
        for text in self.classes or ():
            names = [name.strip() for name in text.split(",")]
            if len(names) > 1 and ";" not in text:
                others = _listed(names[1:], ", ")
                note(
                    f"one class, {one_line(names[0], LONGEST_NAME)}, with the "
                    f"synonym{'s' if len(names) > 2 else ''} {others}; for "
                    f'{"two" if len(names) == 2 else len(names)} classes write "'
                    f'{_listed(names, "; ")}"'
                )
        for name in background.distractors if "," in self.background else ():
            if "," in name:
                apart = _listed(name.split(","), ";")
                note(f'one background word, "{one_line(name)}"; for several write "{apart}"')


def _with_synonyms(names: Sequence[str]) -> str:
    """`sofa (couch, settee)`."""
    first = one_line(names[0], LONGEST_NAME)
    return f"{first} ({_listed(names[1:], ', ')})" if len(names) > 1 else first


def _listed(names: Sequence[str], separator: str) -> str:
    shown = [one_line(name.strip(), LONGEST_NAME) for name in names[:MOST_SHOWN]]
    return separator.join([*shown, *(["..."] if len(names) > MOST_SHOWN else [])])


@dataclass(frozen=True)
class MethodOptions(Group):
    """A method with its variant and options."""

    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="See `wordmask methods`; or FILE.py:NAME, a class in a file of your own.",
            autocompletion=complete.method_name,
            rich_help_panel=METHOD,
        ),
    ] = "cliper"
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            metavar="NAME",
            help="See `wordmask methods NAME`; by default the first listed.",
            autocompletion=complete.variant,
            rich_help_panel=METHOD,
        ),
    ] = None
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Set an option of the method, see `wordmask methods NAME`, or of a refiner, as in "
            "pamr.steps=20. May be repeated.",
            rich_help_panel=METHOD,
        ),
    ] = None
    short_side: Annotated[
        Any,
        typer.Option(
            "--short-side",
            parser=side_length,
            metavar="PIXELS|none",
            help="Resize pictures so that their short side has this length; none: keep their size.",
            rich_help_panel=METHOD,
            show_default="the method's; built-in networks none up to 640 pixels, TIPSv2 448",
        ),
    ] = None

    def read(self, model: str = "") -> tuple[Method, str]:
        """The method and its variant's name; each option may be given once.

        model: its own options apply where none is given, see `wordmask.towers.built_in`.
        """
        from wordmask.methods import METHODS, parse_option, read_method
        from wordmask.registry import split_variant

        chosen = METHODS.resolve(split_variant(self.method)[0])
        given = [parse_option(chosen, text) for text in self._own()] + self._sizes()
        names = [name for name, _ in given]
        for name in names:
            if names.count(name) > 1:
                raise WordmaskError(f"the option {name!r} is given more than once; leave one")
        return read_method(self.method, self.variant, own_options(model, dict(given)))

    def _own(self) -> list[str]:
        """Assignments of the method's options."""
        return self.assignments or []

    def _sizes(self) -> list[tuple[str, Any]]:
        if self.short_side is None:
            return []
        return [("short_side", None if self.short_side == "none" else self.short_side)]


@dataclass(frozen=True)
class RefinedMethodOptions(MethodOptions):
    """A method as for `MethodOptions`, and its refiners."""

    refine: Annotated[
        str | None,
        typer.Option(
            "--refine",
            metavar="LIST",
            help="Refiners of the method's maps, in order, as in diffusion,pamr; a variant after a "
            "colon. See `wordmask refiners`; or FILE.py:NAME.",
            autocompletion=complete.refiners,
            rich_help_panel=METHOD,
        ),
    ] = None

    def _own(self) -> list[str]:
        return [text for text in super()._own() if not _of_refiner(text)]

    def read_refiners(self) -> tuple[Refiner, ...]:
        """Refiners with their options from `--set NAME.OPTION=VALUE`."""
        from wordmask.options import parse_assignment
        from wordmask.refiners import REFINERS, read_refiners
        from wordmask.registry import split_variant

        texts = [text.strip() for text in (self.refine or "").split(",") if text.strip()]
        if self.refine is not None and not texts:
            raise WordmaskError("got an empty --refine; give names as in diffusion,pamr")
        names = [REFINERS.resolve(split_variant(text)[0]).name for text in texts]
        options: dict[str, dict[str, Any]] = {name: {} for name in names}
        for text in self.assignments or []:
            if not _of_refiner(text):
                continue
            owner, _, rest = text.partition(".")
            if owner not in options:
                raise WordmaskError(f"got --set {text!r}, but {owner!r} is not among --refine")
            option, value = parse_assignment(REFINERS, owner, rest)
            if option in options[owner]:
                raise WordmaskError(
                    f"the option {owner}.{option} is given more than once; leave one"
                )
            options[owner][option] = value
        return read_refiners((t, options[name]) for t, name in zip(texts, names, strict=True))


@dataclass(frozen=True)
class FullMethodOptions(RefinedMethodOptions):
    """A method as for `RefinedMethodOptions`, and its windows."""

    window: Annotated[
        str | None,
        typer.Option(
            metavar="N[,STRIDE]",
            help="Slide windows of N pixels over the resized picture, with a stride of half a "
            "window unless STRIDE is given; 0: take it whole. `--set stitch=true` joins them, so "
            "that no seams show.",
            show_default="the method's",
            rich_help_panel=METHOD,
        ),
    ] = None

    def _sizes(self) -> list[tuple[str, Any]]:
        return super()._sizes() + ([] if self.window is None else read_window(self.window))


def _of_refiner(text: str) -> bool:
    return "." in text.partition("=")[0]


def read_window(text: str) -> list[tuple[str, int]]:
    """Read `N` or `N,STRIDE` as options; the stride is half a window by default."""
    try:
        window, *rest = (int(part) for part in text.split(","))
        (stride,) = rest or [max(window // 2, 1)]
    except ValueError:
        raise WordmaskError(
            f"got --window {text}; give N or N,STRIDE in pixels, as in 224,112, or 0 for the whole "
            "picture"
        ) from None
    return [("window", window), *([("stride", stride)] if window else [])]


@dataclass(frozen=True)
class NetworkOptions(Group):
    """Sources of auxiliary models: `--network KIND=SOURCE`, and a flag for every kind."""

    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="KIND=SOURCE",
            help="An auxiliary model of any kind, also of a plug-in. May be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None
    flags: dict[str, str] = dataclasses.field(default_factory=dict)

    default: ClassVar[str] = ""  # shown as the default of all kinds; "": each kind's own

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """The parameters of the fields, and one for every kind."""
        flags = []
        for kind in KINDS.values():
            default = f"Default: {cls.default or kind.source}"  # whole, however narrow the screen
            option = typer.Option(
                f"--{kind.name}",
                metavar="SOURCE",
                help=f"{kind.help} {default}",
                show_default=False,
                rich_help_panel=NETWORKS,
            )
            flags.append(_parameter(kind.name, Annotated[str | None, option], None))
        return super().parameters() + flags

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> NetworkOptions:
        """The flags of kinds as one dict."""
        flags = {kind: values[kind] for kind in KINDS if values.get(kind) is not None}
        own = {name: value for name, value in values.items() if name not in KINDS}
        return cls(**own, flags=flags)

    @property
    def kinds(self) -> list[str]:
        """The kinds that are named, known or not."""
        return [*self.flags, *(text.partition("=")[0] for text in self.network or ())]

    @property
    def sources(self) -> dict[str, str]:
        """Sources by kind; read after methods, since a plug-in may register a kind."""
        found = dict(self.flags)
        for text in self.network or ():
            kind, equals, source = text.partition("=")
            if not equals or not source:
                raise WordmaskError(f"got --network {text}; write KIND=SOURCE")
            if kind not in KINDS:
                raise unknown("kind of auxiliary model", kind, KINDS)
            if kind in found:
                raise WordmaskError(f"the {kind} is given more than once; leave one")
            found[kind] = source
        return found

    def check(
        self, method: Method, refiners: Sequence[Refiner] | None, also: Iterable[str] = ()
    ) -> dict[str, str]:
        """The sources, checked to be used by the method or a refiner (None: no refiners).

        also: kinds that something else uses.
        """
        from wordmask.refiners import REFINERS
        from wordmask.region_maps import SOURCES

        regions = {kind for kind, _ in SOURCES.values()} - {*REFINERS}
        used = {kind for part in (method, *(refiners or ())) for kind in part.networks} | {*also}
        for kind in self.sources:
            if kind in used:
                continue
            way, users = "leave it out", f"{method.name} does not use it"
            if kind == "classifier":
                way = "add --method car --set classifier=second"
            elif refiners is not None:
                users = f"neither {method.name} nor a refiner uses it"
                way = f"add --refine {kind}" if kind in REFINERS else way
                if kind in regions:
                    way = f"add --refine vote --set vote.region_maps={kind}"
            raise WordmaskError(f"got the auxiliary model {kind!r}, but {users}; {way}")
        return self.sources


@dataclass(frozen=True)
class ModelOptions(NetworkOptions):
    """CLIP, its device and dtype, and auxiliary models."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="SOURCE",
            envvar="WORDMASK_MODEL",
            help=f"A CLIP in transformers format: {SOURCE}.",
            rich_help_panel=MODEL,
        ),
    ] = DEFAULT_MODEL
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda, cuda:1, mps ...",
            show_default="a GPU if there is one",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="float32, float16 or bfloat16.",
            show_default="float16 with CUDA, else float32",
            rich_help_panel=MODEL,
        ),
    ] = None
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Download nothing; use local files.", rich_help_panel=MODEL),
    ] = False

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """The model first, then device and dtype, then auxiliary models."""
        first = {"model": 0, "device": 1, "dtype": 2, "offline": 3}
        return sorted(super().parameters(), key=lambda one: first.get(one.name, len(first)))

    def load(
        self,
        method: Method,
        variant: str,
        refiners: Sequence[Refiner] | None = None,
        *,
        max_pixels: int | None = None,
        low_memory: bool = False,
        also: Iterable[str] = (),
    ) -> Segmenter:
        """The segmenter of a method; max_pixels: 0 for no limit; also: as for `check`."""
        from wordmask.segmenter import Segmenter

        sources = self.check(method, refiners, also)
        with busy(f"loading {self.model}"):
            segmenter = Segmenter.from_pretrained(
                self.model,
                type(method),
                variant,
                method.options(),
                self.device,
                self.dtype,
                local_files_only=self.offline,
                refine=refiners,
                networks=sources,
                low_memory=low_memory,
            )
        if max_pixels is not None:
            segmenter.max_pixels = max_pixels or None
        if segmenter.note:
            warnings.warn(segmenter.note, stacklevel=2)  # a warning, which `--quiet` leaves
            segmenter.note = ""
        return segmenter


BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="torch|onnxruntime",
        help="What runs the network: torch, or ONNX Runtime, for which --model is a folder of "
        "`wordmask export`.",
        show_default="onnxruntime for such a folder, else torch",
        rich_help_panel=MODEL,
    ),
]


def read_exported(
    backend: str | None, method: MethodOptions, model: ModelOptions
) -> dict[str, Any] | None:
    """Options of preprocessing of an exported network; None where torch runs the network.

    Raises:
        WordmaskError: the backend does not fit the model, or options that it does not take.
    """
    from wordmask.onnx.runtime import is_exported, read_about

    if backend not in (None, "torch", "onnxruntime"):
        raise unknown("backend", backend, ("torch", "onnxruntime"))
    exported = is_exported(model.model)
    if exported and backend == "torch":
        raise WordmaskError(
            f"{shown(model.model)} is an exported network, which torch does not run; give "
            "--backend onnxruntime"
        )
    if not exported and backend != "onnxruntime":
        return None
    about = read_about(model.model)
    chosen = f"{about['method']}:{about['variant']}"
    kept = {
        name: getattr(method, name) for name in ("short_side", "window") if hasattr(method, name)
    }
    free = type(method)(**kept)
    same = dataclasses.replace(method, method=free.method)
    if same != free or method.method not in (free.method, about["method"], chosen):
        raise WordmaskError(
            f"an exported network has its method, {chosen}; of options of the method it takes "
            + " and ".join(f"--{name.replace('_', '-')}" for name in kept)
            + " alone"
        )
    if model != ModelOptions(model=model.model, offline=model.offline):
        raise WordmaskError("an exported network takes no --device, --dtype or other networks")
    return dict(method._sizes())
