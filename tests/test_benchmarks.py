"""Every documented benchmark still runs: its own `main`, on networks and sizes that are tiny."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tiny import tiny_vfm
from wordmask import list_methods
from wordmask.cli import run
from wordmask.evaluation import cost
from wordmask.methods import create_method

FOLDER = Path(__file__).parents[1] / "benchmarks"
COFFEE = FOLDER.parent / "examples" / "coffee.jpg"
DOCUMENTED = re.findall(
    r"`(?:\w+=\S+ )?((?:python benchmarks|wordmask bench)[^`]+)`",
    (FOLDER / "README.md").read_text(),
)
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py") if "def main" in file.read_text())


def tiny_vision() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=2,
        patch_size=16,
        image_size=64,
        projection_dim=16,
    )
    return CLIPVisionModelWithProjection(config).eval()


def small_networks(patch: pytest.MonkeyPatch) -> None:
    """Stable Diffusion's networks with few channels."""
    import diffusers

    for name, channels in (("UNet2DConditionModel", (160,) * 4), ("AutoencoderKL", (32,) * 4)):
        small = {"block_out_channels": channels, "layers_per_block": 1}
        if name.startswith("UNet"):
            small["sample_size"] = 8
        real = getattr(diffusers, name)
        patch.setattr(diffusers, name, lambda real=real, small=small, **k: real(**(k | small)))


def save_small(make: Callable[[Path], None], folder: Path) -> None:
    """The networks of low_memory.py, narrow."""
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        for name in ("CLIPVisionConfig", "ViTConfig"):
            real = getattr(importlib.import_module("transformers"), name)
            narrow = {"hidden_size": 48, "intermediate_size": 48}
            patch.setattr(f"transformers.{name}", lambda real=real, n=narrow, **k: real(**(k | n)))
        make(folder)


# of a script: arguments, and what stands in place of its own values, from the module
CHEAP: dict[str, tuple[list[str], Callable[[ModuleType], dict[str, Any]]]] = {
    "app": (
        ["--size", "64", "48", "--rounds", "1"],
        lambda module: {"VISION": tiny_vision().config, "TEXT": {"num_hidden_layers": 1}},
    ),
    "encode": (
        ["--batch", "1", "2", "--rounds", "1"],
        lambda module: {"SIZE": (32, 48), "make_model": tiny_vision},
    ),
    "decide": (
        ["--classes", "20", "--size", "64", "128", "--grid", "32", "64"],
        lambda module: {"make_model": tiny_vision},
    ),
    "evaluation": (
        ["--rounds", "1", "--images", "10"],
        lambda module: {"SIZE": (48, 64), "make_model": tiny_vision},
    ),
    "exported": (
        ["--methods", "clip", "--precisions", "fp32", "--rounds", "1"],
        lambda module: {"SIZES": ((32, 48),), "make_model": tiny_vision},
    ),
    "gpu": (
        ["--device", "cpu", "--methods", "clip", "--refiners", "pamr", "--rounds", "1"],
        lambda module: {},
    ),
    "large": (
        [
            "--side=300",
            "--tile=128",
            "--overlap=32",
            "--short-side=48",
            "--shifted=2",
            "--polygons",
        ],
        lambda module: {"SCENE": 128},
    ),
    "import_time": (["--rounds", "1", "--statement", "import wordmask"], lambda module: {}),
    "large_pictures": (["--side", "300"], lambda module: {}),
    "low_memory": (
        ["--pictures", "1"],
        lambda module: {"make": lambda folder, make=module.make: save_small(make, folder)},
    ),
    "photographs": (
        [
            *("--shared", ".", "--sets", "A", "--draw", "sheet.png", "coffee"),
            *("maskclip", "maskclip,short_side=64+vfm,gamma=9+pamr"),
        ],
        lambda module: {
            "SETS": {"A": lambda data: [(COFFEE, np.ones((400, 600), np.uint8))]},
            "load": lambda shared: (tiny_vision(), torch.randn(20, 16), {"vfm": tiny_vfm()}),
            "SETTINGS": {"short_side": 48},
        },
    ),
    "proxy": (
        ["--rounds", "1"],
        lambda module: {"CASES": {"small": ((32, 48), 8, 16, 16)}},
    ),
    "refine": (
        ["--classes", "3", "--repeats", "1", "--side", "8", "--heads", "2"],
        lambda module: {},
    ),
    "serve_load": (
        ["--engines", "here", "--clients", "2", "--seconds", "2"],
        lambda module: {"SIZE": (16, 32), "PICTURES": 2},
    ),
    "words": (
        ["--shared", ".", "--sets", "A", "--limit", "1", "maskclip"],
        lambda module: {
            "SETS": {"A": lambda data: [(COFFEE, np.ones((400, 600), np.uint8))]},
            "load": lambda shared: (tiny_vision(), F.normalize(torch.randn(20, 16), dim=1), {}),
            "load_rows": lambda shared: (torch.randn(140, 16), [[i, i + 20] for i in range(20)]),
            "background_of": lambda name, data, stem, target: target.astype(np.int64),
            "build": lambda run: (create_method(run, None, {"short_side": 48})[0], []),
        },
    ),
    "throughput": (
        ["--pictures", "2", "--rounds", "1", "--classes", "3"],
        lambda module: {"SIZE": (48, 64), "make_model": tiny_vision},
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[None]:
    """Scripts import each other from their folder; afterwards none of them is left imported."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for file in FOLDER.glob("*.py"):
        sys.modules.pop(file.stem, None)
    torch.set_num_threads(threads)


def start(name: str, given: list[str], monkeypatch, capsys) -> str:
    """What a script prints, with the processes that it starts run in this one."""
    module = importlib.import_module(name)
    arguments, changes = CHEAP[name]
    for what, value in changes(module).items():
        monkeypatch.setattr(module, what, value)

    def process(command: list[str], **_: Any) -> str:
        assert command[:2] == [sys.executable, module.__file__]
        before = capsys.readouterr().out
        monkeypatch.setattr(sys, "argv", command[1:])
        module.main()
        out = capsys.readouterr().out
        sys.stdout.write(before + (out if name == "low_memory" else ""))
        return out

    if hasattr(module, "subprocess"):
        fake = SimpleNamespace(run=process, check_output=process)
        monkeypatch.setattr(module, "subprocess", fake)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given, *arguments])
    module.main()
    return capsys.readouterr().out


def test_all_are_documented():
    named = {
        match[1] for text in DOCUMENTED if (match := re.match(r"python benchmarks/(\w+)", text))
    }
    assert named == set(SCRIPTS)
    assert set(CHEAP) >= set(SCRIPTS), "a new script: say how it is run cheaply"
    assert any(text.startswith("wordmask bench ") for text in DOCUMENTED)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name, monkeypatch, capsys):
    out = start(name, [], monkeypatch, capsys)
    assert len(out.splitlines()) >= 2
    if name == "encode":  # methods without what they need are left out, the others follow
        alone = [one for one in list_methods() if not create_method(one)[0].networks]
        measured = [line.split()[0] for line in out.splitlines()]
        assert [one for one in measured if one in alone] == 2 * alone
        assert "proxyclip left out: it needs an auxiliary model (vfm)" in out
    if name == "low_memory":
        assert len({line.split()[-1] for line in out.splitlines()}) == 1  # the same labels
    if name == "photographs":
        width, height = Image.open("sheet.png").size
        assert width > 3 * 300  # the target and two maps, 300 x 200 each
        assert height > 200


@pytest.mark.usefixtures("here")
def test_a_pass_of_stable_diffusion(monkeypatch, capsys):
    small_networks(monkeypatch)
    out = start("refine", ["--network"], monkeypatch, capsys)
    assert "refining 21 classes" in out


@pytest.mark.parametrize("text", [x for x in DOCUMENTED if x.startswith("wordmask bench ")])
def test_wordmask_bench(text, monkeypatch, capsys):
    shapes = dict.fromkeys(cost.CLIP_SHAPES, ((32, 8, 2, 16, 64), (32, 1, 2), 16))
    monkeypatch.setattr(cost, "CLIP_SHAPES", shapes)
    monkeypatch.setattr(cost, "random_vfm", lambda *_: tiny_vfm())
    assert run([*shlex.split(text)[1:], "--size", "48", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    for method in shlex.split(text)[2].split(","):
        assert method in out
