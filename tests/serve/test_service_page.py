"""docs/service.md and the container file: what they tell a reader to type is typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
FENCES = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def here(serve, tmp_path, monkeypatch):
    """A folder with a small example, and the page's address replaced by that of a service."""
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path)
    Image.open(ROOT / "examples" / "coffee.jpg").resize((96, 64)).save("examples/coffee.jpg")
    url = serve().url
    return lambda text: text.replace("http://127.0.0.1:8000", url)


def test_curl(here):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = [line for kind, text in FENCES for line in text.splitlines() if line[:5] == "curl "]
    assert len(lines) >= 3
    for line in lines:
        done = subprocess.run(
            [*shlex.split(here(line)), "-sS", "--fail-with-body"], capture_output=True, check=False
        )
        assert done.returncode == 0, (line, done.stdout[:300], done.stderr)
        if "answer=" not in line:  # curl has cut nothing off
            assert json.loads(done.stdout)["words"] == ["cup", "spoon", "table"]
    assert Image.open("labels.png").size == Image.open("examples/coffee.jpg").size


def test_python(here, capsys):
    (code,) = [text for kind, text in FENCES if kind == "python"]
    exec(compile(here(code), "docs/service.md", "exec"), {})
    assert capsys.readouterr().out.count("Segmentation(") == 2
    assert Image.open("overlay.png").size[0] > 0


def test_the_container_installs_what_is_there():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r'"\.\[([\w,-]+)\]" -c constraints\.txt', text)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert text.index("\nUSER 10001") < text.index("\nENTRYPOINT")  # without rights
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
