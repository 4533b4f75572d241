"""The site of the documents: it builds without a warning, and what it says is what was measured."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import wordmask
from wordmask import list_methods, list_refiners
from wordmask.evaluation.published import TABLES
from wordmask.methods import METHODS
from wordmask.refiners import REFINERS, WordStep

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def table(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose header begins with a column: cells by the first one's words."""
    lines = iter(text.splitlines())
    header = next(line for line in lines if line.startswith(f"| {first} |"))
    rows = {}
    next(lines)  # the rule below the header
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        assert len(cells) == header.count("|") - 1, line
        rows[cells[0].replace("`", "")] = cells[1:]
    return rows


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_builds_without_a_warning_and_needs_no_other_host(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {page.name for page in pages} >= {name.replace(".md", ".html") for name in PAGES}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|source|iframe|video)\b[^>]*\bsrc=[\"']?([^\"' >]+)", text
        )
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']?([^\"' >]+)", text)
        assert not [x for x in loaded if x.startswith(("http:", "https:", "//"))], page.name
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in wordmask.__all__:
        assert name == "__version__" or f'id="wordmask.{name}"' in api, name
    assert not re.search(r'id="wordmask\.\w+\._[a-z]', api)  # nothing private


def test_every_page_is_in_the_navigation():
    nav = read("mkdocs.yml").split("\nnav:", 1)[1]
    named = re.findall(r": (\S+\.md)$", nav, re.MULTILINE)
    missing = sorted(set(PAGES) - set(named))
    assert not missing, f"add to nav in mkdocs.yml: {', '.join(missing)}"
    assert sorted(named) == PAGES


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(f"docs/{x}" for x in PAGES)])
def test_links_lead_somewhere_from_the_repository_too(name):
    """Anchors inside docs/ are checked by the build, so only files are here."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", read(name), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:|#", target):
            path = (ROOT / name).parent / target.split("#")[0]
            assert path.exists(), target
            assert not name.startswith("docs/") or DOCS in path.resolve().parents, target


def test_choosing_has_every_method_and_the_numbers_that_were_measured_or_published():
    page = read("docs/choosing.md")
    methods, refiners = table(page, "method"), table(page, "refiner")
    assert sorted(methods) == sorted(
        name for name in list_methods() if METHODS.origin(name) == "wordmask"
    )
    assert sorted(refiners) == sorted([*list_refiners(), "none"])
    costs = table(read("benchmarks/README.md").split("the work and the memory", 1)[1], "method")
    measured = {}
    for line in read("docs/selftest.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9:
            measured[cells[0], cells[1]] = cells[2:]
    published: dict[str, set[str]] = {}
    for one in TABLES:
        for row in one.rows:
            if row.backbone == "ViT-B/16" and row.settings:
                name = re.split(r"[:+ ]", row.settings[0].entry)[0]
                for column, value in zip(one.columns, row.values, strict=True):
                    if column.metric == "miou" and value is not None:
                        published.setdefault(f"{name} {column.dataset}", set()).add(f"{value:.1f}")
    for name, cells in methods.items():
        _, needs, work, memory, miou, things, voc20, context59 = cells
        assert [work, memory] == costs[name][1:], name
        variant = next(iter(METHODS[name].variants))
        assert [miou, things] == [measured[name, variant][i] for i in (0, 6)], name
        assert voc20 in published.get(f"{name} voc20", {"-"}) | {"-"}, name
        assert context59 in published.get(f"{name} context59", {"-"}) | {"-"}, name
        assert (needs != "-") == bool(METHODS[name]().networks), name
    for name, cells in refiners.items():
        _, _, work, memory, trained, held_out = cells
        if name != "none" and work != "-":
            assert [work, memory] == costs[f"clip with {name}"][1:], name
        if trained != "-":
            words = name != "none" and issubclass(REFINERS[name], WordStep)
            host = "clearclip" if words else "cliper"
            key = ("cliper", "official-v2") if name == "none" else (f"{host} + {name}", "")
            row = measured[key]
            assert [trained, held_out] == [f"{row[0]}, {row[1]}", f"{row[4]}, {row[5]}"], name


@cache
def texts_of_the_source() -> str:
    """All texts in wordmask's code; `…` stands for what is filled in."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        return "…"

    found = []
    for path in Path(wordmask.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(text(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_troubleshooting_quotes_real_messages():
    page = read("docs/troubleshooting.md")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    quoted += re.findall(r"^\| `` ?(.+?) ?`` \|", page, re.MULTILINE)
    assert len(quoted) >= 30
    for message in quoted:
        assert message in texts_of_the_source(), message


def test_models_that_the_documents_name_are_those_that_are_read():
    """Every id of the tables of docs/models.md is a default, has a replica, or is of `NEWER`."""
    from replicas.image_text import BLIP, CLIPS, SIGLIPS
    from replicas.vision import VFMS
    from tiny_families import NEWER
    from wordmask.towers.auxiliary import KINDS

    known = {BLIP, *NEWER, *CLIPS, *SIGLIPS, *VFMS, *(kind.source for kind in KINDS.values())}
    page = read("docs/models.md").split("## Licences and sizes", 1)[1].split("## Slow", 1)[0]
    rows = re.findall(r"^\| `([\w.-]+/[\w.-]+)`.*\|$", page, re.MULTILINE)
    assert len(rows) >= 12
    families = ("wordmask/", "facebook/dinov3-")
    assert not [name for name in rows if name not in known and not name.startswith(families)]
