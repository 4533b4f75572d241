"""What the networks inside the package bring along, and that their limits are told."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from PIL import Image

import wordmask.segmenter
from tiny import tiny_clip
from wordmask import Segmenter, toybox
from wordmask.cli import run
from wordmask.methods import METHODS, create_method
from wordmask.towers.built_in import CLIP, OPTIONS, own_networks, own_options

WEIGHTS = Path(wordmask.__file__).parent / "networks" / "tiny-clip" / "model.safetensors"
pytestmark = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="the weights of wordmask/tiny-clip are not in this checkout"
)
SCENE = toybox.render(0, 64).image


@pytest.fixture(autouse=True)
def _untold(monkeypatch, tmp_path):
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wordmask.segmenter, "_told", set())


def test_python_is_told_once_what_the_network_knows():
    segmenter = Segmenter.from_pretrained(CLIP, "clearclip")
    with pytest.warns(UserWarning, match="rendered scenes only.*openai/clip-vit") as told:
        segmenter(SCENE, ["grass", "sand"], "none")
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter.with_method("clip").encode(SCENE)
        Segmenter.from_pretrained(CLIP).encode(SCENE)


def test_other_models_say_nothing_and_bring_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter = Segmenter.from_pretrained(tiny_clip(), "clearclip")
        segmenter.encode(SCENE[:32, :32])
    assert segmenter.method == create_method("clearclip")[0]
    for model in (tiny_clip(), "openai/clip-vit-base-patch16", "./wordmask/tiny-clip"):
        assert own_options(model, {}) == own_networks(model) == {}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_its_own_options_hold_where_none_is_given(name):
    segmenter = Segmenter.from_pretrained(CLIP, name)
    own = create_method(name)[0].options()
    assert segmenter.provenance()["options"] == own | OPTIONS
    assert segmenter.method.prepare(SCENE, segmenter.tower).shape == (3, 64, 64)
    asked = {"short_side": 32, "templates": "single"}
    for chosen in (segmenter.with_method(name, options=asked), CLIP):
        if chosen is CLIP:
            chosen = Segmenter.from_pretrained(CLIP, name, options=asked)
        limit = {"long_side": own["long_side"]}  # whoever names a size gets it
        assert chosen.provenance()["options"] == own | OPTIONS | limit | asked
    as_given = create_method(name, options={"short_side": 40})[0]
    assert segmenter.with_method(as_given).method == as_given


def test_its_own_auxiliary_models_hold_where_none_is_given():
    assert Segmenter.from_pretrained(CLIP).networks.sources["vfm"] == "wordmask/tiny-vfm"
    given = Segmenter.from_pretrained(CLIP, networks={"vfm": "owner/dino"}).networks.sources
    assert (given["vfm"], given["diffusion"]) == ("owner/dino", "wordmask/tiny-diffusion")


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "scene.png"],
        ["explain", "scene.png", "--show", "attention"],
        ["compare", "scene.png", "--methods", "clip,clearclip"],
        ["segment", "scene.png", "--quiet"],  # leaves warnings
        ["large", "scene.png", "--short-side", "64"],
    ],
)
def test_commands_say_it_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    if arguments[0] == "large":
        pytest.importorskip("rasterio")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(SCENE).save("scene.png")
    assert run([*arguments, "--classes", "grass; sand", "-b", "none", "--model", CLIP]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "rendered" in line]
    assert len(told) == 1
    assert told[0].startswith(f"wordmask: warning: {CLIP} knows rendered scenes only")
    assert "openai/clip-vit-base-patch16" in told[0]


def test_a_protocol_keeps_its_own_size(tmp_path, capsys):
    """Evaluation sets every option itself, so that numbers stay what they were."""
    out = str(tmp_path / "out")
    run_it = ["evaluate", "clearclip", "toybox", "--limit", "1", "--pictures", "0", "--out", out]
    assert run([*run_it, "--model", CLIP, "--protocol", "untuned"]) == 0
    assert "rendered scenes only" not in capsys.readouterr().err
    assert '"short_side": 336' in (tmp_path / "out" / "results.json").read_text()
