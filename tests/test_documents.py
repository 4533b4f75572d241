"""What the documents tell a reader to type, typed: in one process each, offline."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import wordmask
from wordmask import toybox
from wordmask.cli import run
from wordmask.explain import VIEWS
from wordmask.formats import FORMATS
from wordmask.toybox import demo, selftest

ROOT = Path(__file__).parents[1]
STEPS = r"<!-- (run|python) -->\n```\w+\n(.*?)```"
PLUGIN = ROOT / "examples" / "plugin" / "src" / "wordmask_example"

# Every line of a marked block: commands by the command line's own entry point, Python as it is.
SCRIPT = """
import json, shlex, sys
from wordmask.cli import run
from wordmask.toybox import demo, selftest
demo.candidates = lambda: selftest.candidates(["clip", "cliper"])  # tests/toybox runs all
for kind, text in json.load(open("steps.json")):
    if kind == "python":
        exec(compile(text, "example", "exec"), {"__name__": "example"})
        continue
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program:
            assert program == "wordmask", line
            print("$", line, flush=True)
            assert run(arguments) == 0, line
"""


def marked(text: str, mark: str) -> list[tuple[str, str]]:
    """What follows a mark such as `<!-- run -->`: (argument of the mark, content of the fence)."""
    pattern = rf"<!-- {mark}(?:: (\S+))? -->\n```\w+\n(.*?)```"
    return [(m[1], m[2]) for m in re.finditer(pattern, text, re.DOTALL)]


def test_extending(tmp_path):
    """The examples of docs/extending.md are those of the example package, and all of them run."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    files = dict(marked(text, "file"))
    assert set(files) == {"qk_mean.py", "smooth.py", "level.py", "halves.py"}
    for name, content in files.items():
        assert content == (PLUGIN / name).read_text(encoding="utf-8"), name
        assert len(content.splitlines()) <= 60
        (tmp_path / name).write_text(content, encoding="utf-8")
    steps = [(m[1], m[2]) for m in re.finditer(STEPS, text, re.DOTALL)]
    assert len(steps) >= 6
    (tmp_path / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    paths = os.pathsep.join([str(Path(wordmask.__file__).parents[1]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "protocol is used" in (tmp_path / "evaluation" / "results.md").read_text()


def test_pictures(tmp_path):
    """The commands of docs/pictures.md that need no download run, and its images exist."""
    text = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    for image in re.findall(r"\]\((images/\S+)\)", text):
        assert (ROOT / "docs" / image).is_file(), image
    named = set(re.findall(r"^\| `([a-z][a-z-]+)` \|", text, re.MULTILINE))
    assert named == set(VIEWS)
    (tmp_path / "scene").mkdir()
    scene = toybox.render(0, 96)  # in place of the larger one of `wordmask demo`
    Image.fromarray(scene.image).save(tmp_path / "scene" / "scene.png")
    quick = text.replace("--pictures 3", "--pictures 1").replace("side=144", "side=48")
    steps = [("run", one) for _, one in marked(quick, "run")]
    assert len(steps) == 4
    (tmp_path / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(wordmask.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    drawn = {path.stem for path in (tmp_path / "explained").iterdir()}
    assert drawn == {f"scene_{name}" for name in set(VIEWS) - {"attention", "layers", "classes"}}
    assert (tmp_path / "compared.png").is_file()


def test_formats(tmp_path):
    """What docs/formats.md tells to type runs, and its tables name all formats."""
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| `([^`]+)`", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(FORMATS)
    for name, file in rows:
        assert file.removeprefix("NAME") == FORMATS[name].suffix, name
    steps = [(m[1], m[2]) for m in re.finditer(STEPS, text, re.DOTALL)]
    assert [kind for kind, _ in steps] == ["run", "python"]
    (tmp_path / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(wordmask.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = {path.name for path in (tmp_path / "dataset").iterdir()}
    assert made == {
        "scene_masks", "scene_cutouts", "scene_polygons.geojson",
        "yolo", "cvat.zip", "coco_panoptic", "voc",
    }  # fmt: skip
    assert (tmp_path / "masks" / "coco.json").is_file()


def test_maps(tmp_path, monkeypatch):
    """The commands and examples of docs/maps.md run, on fewer fields; its images exist."""
    text = (ROOT / "docs" / "maps.md").read_text(encoding="utf-8")
    for image in re.findall(r"\]\((images/\S+)\)", text):
        assert (ROOT / "docs" / image).is_file(), image
    quick = text.replace("range(6)", "range(2)").replace("range(4)", "range(1)")
    steps = re.findall(r"<!-- (run|python) -->\n```\w+\n(.*?)```", quick, re.DOTALL)
    assert len(steps) == 4
    monkeypatch.chdir(tmp_path)
    for kind, content in steps:
        if kind == "python":
            exec(compile(content, "example", "exec"), {"__name__": "example"})
        else:
            assert run(shlex.split(content)[1:]) == 0
    assert {"labels.tif", "labels.json", "labels.jpg", "fields.gpkg", "two.tif"} <= {
        file.name for file in tmp_path.iterdir()
    }


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Run by the tests above, which prepare more for them.
WITH_OWN_TEST = {"extending.md", "formats.md", "jobs.md", "maps.md", "pictures.md"}
# Run elsewhere: `.ci/run` types the README's commands, tests/toybox its demo.
ELSEWHERE = {"demo", "test"}


def unmarked(text: str) -> list[str]:
    """The first lines of fences that are neither run nor say why not.

    `<!-- not run: why -->` stands before a fence or, for all of a page, at its top. Messages and
    output are fences without a language.
    """
    if re.search(r"\A# .*\n\n<!-- not run: .{9,}? -->\n\n", text):
        text = re.sub(r"\A# .*\n\n<!--.*?-->\n", "", text)
        found = re.findall(r"^<!-- (?:run|python|file)\b.*-->$", text, re.MULTILINE)
        return ["the page says that it is not run, and has: " + one for one in found]
    fences = re.finditer(r"(?:^<!-- ([^\n]+?) -->\n)?^ *```(\w+)\n(.*?)^ *```$", text, re.M | re.S)
    wrong = []
    for fence in fences:
        kind, _, rest = (fence[1] or "").partition(":")
        ran = (kind in {"run", "python"} | ELSEWHERE and not rest) or (kind == "file" and rest)
        if not ran and not (kind == "not run" and len(rest.strip()) > 8):
            wrong.append(fence[3].splitlines()[0])
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_is_run_or_says_why_not(page):
    assert not unmarked(page.read_text(encoding="utf-8"))


def test_fences_without_a_mark_are_found():
    fence = "```bash\nwordmask demo\n```\n"
    assert unmarked(fence) == ["wordmask demo"]
    assert unmarked(f"<!-- not run: -->\n{fence}") == ["wordmask demo"]
    assert unmarked(f"<!-- run -->\n{fence}<!-- not run: needs weights -->\n{fence}") == []
    assert unmarked(f"# A page\n\n<!-- not run: all need weights -->\n\n{fence}") == []
    assert unmarked("```\na message\n```\n") == []


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if page.name not in WITH_OWN_TEST
        and re.search(r"^<!-- (run|python) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ],
    ids=lambda page: page.name,
)
def test_examples_run(page, tmp_path, monkeypatch):
    """Each `<!-- run -->` and `<!-- python -->` of a page, in order, with built-in networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    few = selftest.candidates(["clip", "cliper"])  # tests/toybox runs the demo of all
    monkeypatch.setattr(demo, "candidates", lambda: few)
    scene = Image.fromarray(toybox.render(0, 64).image)  # in place of what the pages name
    for name in ("examples/coffee.jpg", "wordmask-demo/scene.png", "scene/scene.png"):
        Path(name).parent.mkdir()
        scene.save(name)
    text = page.read_text(encoding="utf-8").replace(
        "openai/clip-vit-base-patch16", "wordmask/tiny-clip"
    )
    steps = re.findall(r"^<!-- (run|python) -->\n```\w+\n(.*?)^```$", text, re.M | re.S)
    marks = re.findall(r"^<!-- (?:run|python) -->$", text, re.MULTILINE)
    assert len(steps) == len(marks), "a mark stands on the line before its fence"
    for kind, content in steps:
        if kind == "python":
            exec(compile(content, page.name, "exec"), {"__name__": "example"})
            continue
        for line in content.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            assert program in ("", "wordmask"), line
            assert not program or run(arguments) == 0, line
    if page.name == "README.md":
        assert Path("coffee_overlay.png").is_file()
    if page.name == "api.md":
        assert Path("masks-demo/scene_labels.png").is_file()


def test_jobs(tmp_path, monkeypatch):
    """The commands and the Python of docs/jobs.md run."""
    text = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        Image.fromarray(toybox.render(seed, 64).image).save(f"{seed}.png")
    Path("list.txt").write_text("0.png\n1.png\n")
    for _, block in marked(text, "run"):
        for line in block.splitlines():
            assert run(shlex.split(line)[1:]) == 0, line
    (code,) = [code for _, code in marked(text, "python")]
    exec(compile(code, "example", "exec"), {"__name__": "example"})
    assert {file.name for file in Path("second").glob("*.png")} == {"0_labels.png", "1_labels.png"}
    assert len(list(Path("kept").rglob("*.safetensors"))) == 2
    assert Path("results.parquet").is_file()
    assert Path("frames/frame2_labels.png").is_file()


def definitions(file: Path) -> set[str]:
    """`::NAME` and `::CLASS::NAME` of all that a Python file defines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    outer = [one for one in tree.body if isinstance(one, kinds)]
    inner = {f"::{one.name}::{x.name}" for one in outer for x in one.body if isinstance(x, kinds)}
    return {f"::{one.name}" for one in outer} | inner


def test_tests_that_are_named_exist():
    """In every document; and every promise of docs/reliability.md names one."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]
    for document in documents:
        named = re.findall(
            r"\b(tests/[\w/]+\.py)((?:::\w+)*)", document.read_text(encoding="utf-8")
        )
        for file, name in named:
            assert (ROOT / file).is_file(), f"{document.name}: {file}"
            assert not name or name in definitions(ROOT / file), f"{document.name}: {file}{name}"
    promises = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in promises.splitlines() if re.match(r"\| [A-Z]", line)]
    assert len(rows) >= 25
    for row in rows:
        assert re.search(r"tests/[\w/]+\.py::\w+", row), row


def test_docstring_examples():
    """As `pytest --doctest-modules src`; examples that need a download are marked to be skipped."""
    source = Path(wordmask.__file__).parent
    tried = 0
    for path in sorted(source.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(source.parent).with_suffix("").parts
            module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
            result = doctest.testmod(module)
            assert not result.failed, module.__name__
            tried += result.attempted
    assert tried >= 5
