"""The server for assistants, through mcp's own client, in memory and as a process."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordmask import Segmenter

mcp = pytest.importorskip("mcp")

from wordmask.integrations.mcp import server

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_pretrained("wordmask/tiny-clip", "clearclip")


def call(made, tool: str, **arguments):
    async def ask():
        async with mcp.Client(made) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(ask())


def text(answer) -> str:
    return "\n".join(part.text for part in answer.content if part.type == "text")


def picture(answer) -> Image.Image:
    (part,) = [part for part in answer.content if part.type == "image"]
    return Image.open(io.BytesIO(base64.b64decode(part.data)))


@pytest.fixture
def root(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path


def test_segment(segmenter, root):
    answer = call(
        server(segmenter, root),
        "segment",
        image="scene.png",
        words="red ball, crimson ball; grass",
        background="none",
        save_labels="labels.png",
    )
    assert not answer.is_error, text(answer)
    result = segmenter(root / "scene.png", [["red ball", "crimson ball"], "grass"], "none")
    labels = np.asarray(Image.open(root / "labels.png"))
    assert (labels == result.labels).all()
    for name in result.found:
        assert f"{name}: label" in text(answer)
        assert f"{100 * result.shares()[name]:.1f} %" in text(answer)
    assert picture(answer).width == result.overlay().width


def test_another_method_and_a_refiner(segmenter, root):
    answer = call(
        server(segmenter, root), "segment", image="scene.png", words="grass", method="cliper",
        refine="pamr",
    )  # fmt: skip
    assert not answer.is_error, text(answer)


def test_explain_and_methods(segmenter, root):
    made = server(segmenter, root)
    answer = call(made, "explain_picture", image="scene.png", x=3, y=4, save="attention.png")
    assert not answer.is_error, text(answer)
    assert Image.open(root / "attention.png").size[0] >= picture(answer).size[0]
    assert "cliper" in text(call(made, "list_methods"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": "../scene.png", "words": "a"}, "outside of"),
        ({"image": "no.png", "words": "a"}, "no.png"),
        ({"image": "scene.png", "words": ";"}, "empty"),
        ({"image": "scene.png", "words": "a", "background": "all"}, "unknown background"),
        ({"image": "scene.png", "words": "a", "method": "clipper"}, "did you mean"),
        ({"image": "scene.png", "words": "a", "method": "own.py:Mine"}, "unknown method"),
        ({"image": "scene.png", "words": "a", "refine": "pamr,own.py:Mine"}, "unknown refiner"),
        ({"image": "scene.png", "words": "a", "save_labels": "a.jpg"}, "saved as PNG"),
        ({"image": "scene.png", "words": "a", "save_labels": "../a.png"}, "outside of"),
    ],
)
def test_what_cannot_be_done_is_told(segmenter, root, arguments, message):
    answer = call(server(segmenter, root), "segment", **arguments)
    assert answer.is_error
    assert message in text(answer)
    assert "Traceback" not in text(answer)


def test_words_name_no_file(segmenter, root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "words.txt").write_text("secret\n")
    answer = call(server(segmenter, root), "segment", image="scene.png", words="words.txt")
    assert "secret" not in text(answer)
    assert "words.txt" in text(answer)


def test_the_command_as_a_process():
    """Standard output carries the protocol alone."""
    command = ["-m", "wordmask", "mcp", "--model", "wordmask/tiny-clip", "--root", str(EXAMPLES)]
    parameters = mcp.StdioServerParameters(
        command=sys.executable, args=command, env=dict(os.environ)
    )

    async def ask():
        async with mcp.Client(mcp.stdio_client(parameters)) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    assert asyncio.run(ask()) == ["segment", "explain_picture", "list_methods"]
