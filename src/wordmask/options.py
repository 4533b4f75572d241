"""Options of methods and refiners: the fields of a frozen dataclass, checked, named and parsed."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from wordmask.errors import WordmaskError, unknown

EXTRAS = {"cluster": "sklearn", "diffusion": "diffusers"}  # what each brings


@dataclass(frozen=True)
class Options:
    """Something with a name, variants, and options that are its fields.

    Attributes:
        name: what it is called in code and on the command line.
        title: what people call it.
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
        hints = typing.get_type_hints(type(self))
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


def missing_extras(*registries: Mapping[str, type[Options]]) -> list[str]:
    """Names of methods and refiners whose optional part is not installed."""
    return [n for registry in registries for n in sorted(registry) if not is_installed(registry[n])]


def is_installed(one: type[Options]) -> bool:
    """Whether the optional part that a method or refiner needs is installed."""
    return not one.extra or importlib.util.find_spec(EXTRAS[one.extra]) is not None


Kind = TypeVar("Kind", bound=Options)


def create(
    kind: str,
    registry: Mapping[str, type[Kind]],
    name: str,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Kind, str]:
    """Build what `registry` holds under a name; returns it with the variant's name.

    Args:
        kind: "method" or "refiner", for messages.
        registry: classes by name.
        name: see `registry`.
        variant: None takes the first.
        options: over those of the variant.

    Raises:
        WordmaskError: unknown name, variant or option, or a value of the wrong type.
    """
    if name not in registry:
        raise unknown(kind, name, registry)
    chosen = registry[name]
    variant = next(iter(chosen.variants)) if variant is None else variant
    if variant not in chosen.variants:
        raise unknown(f"variant of {name}", variant, chosen.variants)
    known = {f.name for f in dataclasses.fields(chosen)}
    for option in options or {}:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return chosen(**{**chosen.variants[variant], **(options or {})}), variant


def parse_assignment(
    kind: str, registry: Mapping[str, type[Options]], owner: str, text: str
) -> tuple[str, Any]:
    """Read `option=value` from a command line into a value of the type of `owner`'s option."""
    if owner not in registry:
        raise unknown(kind, owner, registry)
    name, equals, value = text.partition("=")
    names = [f.name for f in dataclasses.fields(registry[owner])]
    if not equals:
        raise WordmaskError(f"got --set {text!r}; write option=value")
    if name not in names:
        raise unknown(f"option of {owner}", name, names)
    hint = typing.get_type_hints(registry[owner])[name]
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
    """A type as a person reads it: `"qq" or "kk"`, `int or none`."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " or ".join(f'"{v}"' for v in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(h) for h in typing.get_args(hint))
    if origin is tuple:
        return f"a tuple of {describe_type(typing.get_args(hint)[0])}"
    return "none" if hint is type(None) else str(hint.__name__)
