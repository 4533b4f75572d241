"""How the code hangs together: imports point one way, and no public name is undocumented."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import wordmask

SOURCE = Path(wordmask.__file__).parent

# From the ground up. A module imports modules of its own layer or of layers below, never above.
LAYERS = (
    ("version", "errors", "extras"),
    (
        "files",
        "progress",
        "options",
        "registry",
        "user_code",
        "journal",
        "images",
        "memory",
        "sliding",
        "windows",
        "affinity",
        "boxes",
        "devices",
        "vocabulary",
        "colours",
        "lettering",
    ),
    ("drawing", "regions", "segmentation", "bars"),
    ("formats",),
    ("onnx.decision", "onnx.runtime"),
    ("towers", "clusters", "region_maps"),
    ("text_queries", "preprocessing", "encoding", "scoring", "region_vote"),
    ("methods", "refiners"),
    ("pipeline",),
    ("segmenter",),
    ("objects",),
    ("explain", "batch"),
    ("toybox.scenes", "datasets"),
    ("metrics",),
    ("toybox", "evaluation"),
    ("compare", "doctor", "large", "onnx"),
    ("app", "serve", "client"),
    ("integrations",),
    ("cli", "__main__"),
)


def modules() -> dict[str, Path]:
    """Every module by its dotted name below `wordmask`; packages by their own name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """What a module imports of wordmask, anywhere in it: also in functions and for types."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            given = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            given = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in given:
            if full.partition(".")[0] != "wordmask":
                continue
            below = full.partition(".")[2]
            while below not in MODULES:  # a name in a module
                below = below.rpartition(".")[0]
            yield below


def layer(name: str) -> int:
    """The layer of a module: that of the longest prefix which is listed."""
    ranks = {one: rank for rank, layer in enumerate(LAYERS) for one in layer}
    while name not in ranks:
        name = name.rpartition(".")[0]
        assert name, "a new module: list it in LAYERS"
    return ranks[name]


def test_imports_point_down():
    upward = [
        f"{name} imports {other}"
        for name in MODULES
        if name
        for other in imports(name)
        if other and layer(other) > layer(name)
    ]
    assert not upward


def test_no_module_is_imported_by_what_it_imports():
    edges = {name: {other for other in imports(name) if other != name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(MODULES):
        visit(name, ())
