"""Options of methods and refiners: the fields of a frozen dataclass, checked, named and parsed."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from wordmask.errors import WordmaskError, unknown
from wordmask.registry import Registry, check_name

EXTRAS = {
    "cluster": "sklearn",
    "diffusion": "diffusers",
    "regions": "skimage",
}  # extra -> package that it installs


@dataclass(frozen=True)
class Options:
    """Something with a name, variants, and options that are its fields.

    Attributes:
        name: its name in code and on the command line.
        title: its name in text and tables.
        network: the kind of auxiliary model that it needs by default, or "none".
        extra: the optional part of wordmask that it needs, as in `pip install "wordmask[cluster]"`.
        variants: options of each variant by its name; the first is the default.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    network: ClassVar[str] = "none"
    extra: ClassVar[str] = ""
    variants: ClassVar[dict[str, dict[str, Any]]]

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class has a hash
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list):
                object.__setattr__(self, item.name, value := tuple(value))
            if not _fits(value, hints[item.name]):
                raise WordmaskError(
                    f"option {item.name!r} of {self.name} got {value!r}; "
                    f"expected {describe_type(hints[item.name])}"
                )

    @property
    def networks(self) -> tuple[str, ...]:
        """The kinds of auxiliary models that these options need."""
        return () if self.network == "none" else (self.network,)

    def options(self) -> dict[str, Any]:
        """All options by name, as plain values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@functools.cache  # importing all methods would take a third longer without
def _hints(options: Any) -> dict[str, Any]:
    """The types of options by name."""
    return typing.get_type_hints(options)


def missing_extras(*registries: Mapping[str, type[Options]]) -> list[str]:
    """Names of methods and refiners with an optional part that is not installed."""
    return [n for registry in registries for n in sorted(registry) if not is_installed(registry[n])]


def is_installed(one: type[Options]) -> bool:
    """Whether the optional part that a method or refiner needs is installed."""
    return not one.extra or importlib.util.find_spec(EXTRAS[one.extra]) is not None


Chosen = TypeVar("Chosen", bound=Options)


def check_class(base: type[Chosen], given: Any) -> type[Chosen]:
    """Check that a class can be registered: a frozen dataclass with name, title and docstring.

    Raises:
        WordmaskError: what is missing, and how to add it.
    """
    if not isinstance(given, type) or not issubclass(given, base) or given is base:
        raise WordmaskError(f"got {given!r} as a {base.__name__}; give a subclass of it")
    who = f"the {base.__name__} {given.__qualname__}"
    if "__dataclass_params__" not in vars(given):
        raise WordmaskError(
            f"{who} is not a dataclass, so its options would be lost; write "
            "@dataclass(frozen=True) directly above its class line, below the registration"
        )
    doc = (given.__doc__ or "").strip()
    if sys.flags.optimize < 2 and (not doc or doc.startswith(f"{given.__name__}(")):  # dataclass's
        raise WordmaskError(f"{who} has no docstring; say in its first line what it does")
    check_name(who, getattr(given, "name", None))
    if not isinstance(getattr(given, "title", None), str) or not given.title.strip():
        raise WordmaskError(f'{who} has no title; write title = "My Part", as people call it')
    if given.extra not in ("", *EXTRAS):
        raise unknown(f"extra of {who}", given.extra, EXTRAS)
    variants = getattr(given, "variants", None)
    if not isinstance(variants, dict) or not variants:
        raise WordmaskError(
            f'{who} has no variants; write variants = {{"default": {{}}}}, the options that each '
            "sets, the default first"
        )
    for name, options in variants.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise WordmaskError(f"{who} has a variant {name!r}; give it a name without spaces")
        if not isinstance(options, dict):
            raise WordmaskError(f"{who}: variant {name!r} is {options!r}; give options by name")
        _check_known(who, options, given)
        try:
            given(**options)
        except WordmaskError as error:
            raise WordmaskError(f"{who}: variant {name!r}: {error}") from None
        except Exception as error:  # a missing default, or a hint that is not a type
            first = (str(error).splitlines() or [""])[0]
            raise WordmaskError(
                f"{who}: variant {name!r}: {type(error).__name__}: {first}; every option needs a "
                "default, and one of the types bool, int, float, str, Literal, tuple[int, ...]"
            ) from None
    return given


def _check_known(who: str, options: Iterable[str], given: type[Options]) -> None:
    known = {f.name for f in dataclasses.fields(given)}
    for option in options:
        if option not in known:
            raise unknown(f"option of {who}", option, known)


def create(
    registry: Registry[type[Chosen]],
    given: Any,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Chosen, str]:
    """Build a part; returns it with the variant's name.

    Args:
        registry: where names are looked up.
        given: a name, a class, or `FILE.py:NAME`.
        variant: None takes the first.
        options: override those of the variant.

    Raises:
        WordmaskError: unknown name, variant or option, or a value of the wrong type.
    """
    chosen = registry.resolve(given)
    variant = next(iter(chosen.variants)) if variant is None else variant
    if variant not in chosen.variants:
        raise unknown(f"variant of {chosen.name}", variant, chosen.variants)
    _check_known(chosen.name, options or {}, chosen)
    return chosen(**{**chosen.variants[variant], **(options or {})}), variant


def variant_of(part: Options) -> str:
    """The variant with the options of an instance, or "custom"."""
    same = (name for name, options in part.variants.items() if type(part)(**options) == part)
    return next(same, "custom")


def parse_assignment(registry: Registry[type[Chosen]], owner: Any, text: str) -> tuple[str, Any]:
    """Read `option=value` from a command line into a value of the type of `owner`'s option.

    owner: a name, a class, or `FILE.py:NAME`.
    """
    chosen = registry.resolve(owner)
    name, equals, value = text.partition("=")
    if not equals:
        raise WordmaskError(f"got --set {text!r}; write option=value")
    _check_known(chosen.name, [name], chosen)
    hint = typing.get_type_hints(chosen)[name]
    lowered = value.strip().lower()
    word = {"true": True, "yes": True, "false": False, "no": False, "none": None}.get(lowered, ...)
    try:
        parsed = ast.literal_eval(value) if word is ... else word
    except (ValueError, SyntaxError):
        parsed = value
    for candidate in (parsed, value):
        if _fits(candidate, hint):
            return name, candidate
    raise WordmaskError(f"option {name!r} got {value!r}; expected {describe_type(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, typing.get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """A type in words: `"qq" or "kk"`, `int or none`."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " or ".join(f'"{v}"' for v in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(h) for h in typing.get_args(hint))
    if origin is tuple:
        return f"a tuple of {describe_type(typing.get_args(hint)[0])}"
    return "none" if hint is type(None) else str(hint.__name__)


def describe(one: type[Options], base: type[Options]) -> dict[str, Any]:
    """Describe a method or refiner as plain values, from its docstrings."""
    text, _ = split_docstring(inspect.getdoc(one) or "")
    described: dict[str, str] = {}
    for parent in reversed(one.__mro__):  # one method may build on another
        described |= split_docstring(inspect.cleandoc(parent.__dict__.get("__doc__") or ""))[1]
    defaults = one(**next(iter(one.variants.values()))).options()
    hints = typing.get_type_hints(one)
    common_names = {field.name for field in dataclasses.fields(base)}
    options = [
        {
            "name": field.name,
            "type": describe_type(hints[field.name]),
            "default": defaults[field.name],
            "description": described.get(field.name, ""),
            "common": field.name in common_names,
        }
        for field in dataclasses.fields(one)
    ]
    module = (sys.modules[one.__module__].__doc__ or "").strip()
    year = getattr(one, "year", None)
    return {
        "name": one.name,
        "title": one.title,
        "paper": (module or one.title).splitlines()[0],
        **({"year": year} if year else {}),
        "network": one.network,
        "summary": text[0],
        "description": text,
        "variants": {variant: dict(changes) for variant, changes in one.variants.items()},
        "options": sorted(options, key=lambda option: bool(option["common"])),
    }


def split_docstring(doc: str) -> tuple[list[str], dict[str, str]]:
    """Paragraphs and list items of a docstring, each on one line, and its arguments by name."""
    body, _, arguments = doc.partition("\nArgs:\n")
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", body.strip())
    described: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + arguments.rstrip()):
        names, colon, text = entry.strip().partition(": ")
        if colon:
            described |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return [" ".join(paragraph.split()) for paragraph in paragraphs], described
