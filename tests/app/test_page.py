"""The page as a program sees it: its components, and calls without a browser."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from PIL import Image

gradio = pytest.importorskip("gradio", reason="the page is not installed (extra app)")

from wordmask.app.controls import needs, options_of, sentences
from wordmask.app.engine import BUILT_IN, Engine
from wordmask.app.examples import examples
from wordmask.app.page import build, launch, note
from wordmask.cli import run
from wordmask.cli.app import is_loopback
from wordmask.methods import METHODS
from wordmask.refiners import REFINERS
from wordmask.toybox import render

SPACE = Path(__file__).parents[2] / "examples" / "space"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from gradio_client import Client

    page, address = launch(Engine(BUILT_IN, offline=True), port=None, block=False)
    yield Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("files")))
    page.close()


def test_every_method_and_refiner_says_what_it_does_and_needs():
    for name in METHODS:
        assert METHODS[name].title in sentences(name, [])
    for name in REFINERS:
        assert needs(REFINERS[name])
        assert REFINERS[name].title in sentences("clip", [name])
    assert "dino-vitb8" in sentences("proxyclip", [])


def test_options_come_from_the_dataclasses():
    found = {one.key: one for one in options_of("gem", None, ["pamr"])}
    assert found["logit_scale"].common
    assert found["pamr.steps"].value == REFINERS["pamr"]().steps
    assert {one.name for one in dataclasses.fields(METHODS["gem"])} <= set(found)


def test_folders_and_networks_are_for_the_owner_alone():
    def labels(local: bool) -> set[str]:
        page = build(Engine(BUILT_IN, offline=True, local=local))
        return {str(getattr(one, "label", "")) for one in page.blocks.values()}

    assert {"A folder", "vfm"} <= labels(True)
    assert not {"A folder", "vfm"} & labels(False)
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")


def test_the_built_in_network_is_named_for_what_it_is():
    assert "rendered scenes only" in note(Engine(BUILT_IN), BUILT_IN)
    assert "rendered" not in note(Engine(BUILT_IN), "openai/clip-vit-base-patch16")


def test_the_space_and_the_command_start_the_same_page(capsys, monkeypatch):
    import runpy

    space = runpy.run_path(str(SPACE / "app.py"), run_name="imported")
    assert space["launch"] is launch
    card = (SPACE / "README.md").read_text()
    assert f"sdk_version: {gradio.__version__}" in card
    assert run(["app", "--help"]) == 0
    assert "--share" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(["app"]) == 2
    assert 'pip install "wordmask[app]"' in capsys.readouterr().err


def test_examples_fit_the_network(tmp_path):
    assert len(examples(BUILT_IN, tmp_path)) == 4
    photographs = examples("openai/clip-vit-base-patch16", tmp_path)
    assert [Path(one.picture).name for one in photographs] == ["coffee.jpg", "chelsea.jpg"]


def test_a_program_calls_the_page(client, tmp_path):
    from gradio_client import handle_file

    picture = tmp_path / "scene.png"
    Image.fromarray(render(4 * 10**9 + 81, 96, things=(4, 5)).image).save(picture)
    segment = {
        "picture": handle_file(picture),
        "words": ["brick, bricks", "water"],
        "rule": "none",
        "names": [],
        "special": "",
        "number": None,
    }
    given = [*segment.values(), 0.55, BUILT_IN, "clip", "paper", [], *[""] * 4]
    found = client.predict(*given, api_name="/segment")
    assert any("brick" in str(one) for one in found)
    files = client.predict(["labels", "json"], api_name="/files")
    listed = files["value"] if isinstance(files, dict) else files
    assert {Path(one).suffix for one in listed} == {".png", ".json"}
    given[1] = []
    with pytest.raises(Exception, match="no words yet"):
        client.predict(*given, api_name="/segment")
