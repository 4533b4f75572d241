"""What a shell offers at Tab: names of methods, refiners, data sets, variants and formats.

Neither torch nor a method is imported for it: names of classes are read from the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import typer

import wordmask

PROTOCOLS = ("official", "paper", "untuned")
BACKGROUNDS = ("auto", "negatives", "none", "names:", "threshold:", "complement:")


def parts(package: str) -> dict[str, list[str]]:
    """The methods or refiners with their variants, and those of installed packages without."""
    found: dict[str, list[str]] = {}
    for file in sorted((Path(wordmask.__file__).parent / package).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                own = dict(_assignments(node))
                name, variants = own.get("name"), own.get("variants")
                if isinstance(name, ast.Constant) and isinstance(variants, ast.Dict):
                    keys = [key.value for key in variants.keys if isinstance(key, ast.Constant)]
                    found[str(name.value)] = [str(key) for key in keys]
    for plugin in entry_points(group=f"wordmask.{package}"):
        found.setdefault(plugin.name, [])
    return dict(sorted(found.items()))


def _assignments(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    for line in node.body:
        if isinstance(line, (ast.Assign, ast.AnnAssign)):
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if isinstance(target, ast.Name):
                yield target.id, line.value


def _starting(names: Iterable[str], text: str, separators: str = ",") -> list[str]:
    """Names that go on from the last one in a list."""
    match = re.search(f"[^{re.escape(separators)}]*$", text)
    last = match[0] if match else ""
    before = text[: len(text) - len(last)]
    given = set(re.split(f"[{re.escape(separators)}]", before))
    return [before + name for name in names if name.startswith(last) and name not in given]


def _with_variants(package: str, text: str) -> list[str]:
    found = parts(package)
    name, colon, _ = text.partition(":")
    return [f"{name}:{one}" for one in found.get(name, ())] if colon else list(found)


def method(incomplete: str) -> list[str]:
    """A method, or `METHOD:VARIANT`."""
    return [one for one in _with_variants("methods", incomplete) if one.startswith(incomplete)]


def method_name(incomplete: str) -> list[str]:
    """A method without a variant."""
    return _starting(parts("methods"), incomplete, " ")


def entries(incomplete: str) -> list[str]:
    """`METHOD[:VARIANT][+REFINER]...`, several with commas between."""
    before, comma, last = incomplete.rpartition(",")
    head, plus, refiner = last.rpartition("+")
    if plus:
        names = [f"{head}+{one}" for one in _with_variants("refiners", refiner)]
    else:
        names = _with_variants("methods", last)
    return [before + comma + one for one in names if one.startswith(last)]


def refiners(incomplete: str) -> list[str]:
    """Refiners with commas between, each with a variant or without."""
    last = incomplete.rpartition(",")[2]
    return _starting(_with_variants("refiners", last), incomplete)


def refiner_name(incomplete: str) -> list[str]:
    """One refiner without a variant."""
    return _starting(parts("refiners"), incomplete, " ")


def variant(context: typer.Context, incomplete: str) -> list[str]:
    """A variant of the method that stands before, of the default one if there is none."""
    chosen = str(context.params.get("method") or "cliper")
    return _starting(parts("methods").get(chosen, ()), incomplete, " ")


def datasets(incomplete: str) -> list[str]:
    """Data sets with commas between."""
    from wordmask.datasets import BENCHMARKS  # without torch

    return _starting(sorted(BENCHMARKS), incomplete)


def formats(incomplete: str) -> list[str]:
    """Formats of results with commas between."""
    from wordmask.formats import FORMATS  # without torch

    return _starting(FORMATS, incomplete)


def protocol(incomplete: str) -> list[str]:
    """A protocol."""
    return _starting(PROTOCOLS, incomplete, " ")


def background(incomplete: str) -> list[str]:
    """A rule for the background."""
    return [one for one in BACKGROUNDS if one.startswith(incomplete)]
