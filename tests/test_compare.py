"""Side by side: what stands in a column is what the method gives alone."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tiny import tiny_clip, tiny_tokenizer, tiny_vfm
from wordmask import Segmenter, WordmaskError, drawing
from wordmask.cli import run as command
from wordmask.compare import Row, Sheet, compare, compare_benchmark
from wordmask.datasets import VOID
from wordmask.evaluation.plan import Plan
from wordmask.towers.clip import ClipTower

WORDS = ["photo", "cat", "do"]
METHODS = ("clip", "maskclip", "sclip", "sclip+pamr", "cliper", "proxyclip")
SETTINGS = ("short_side=56", "pamr.steps=3")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    networks = {"vfm": tiny_vfm()}
    model = tiny_clip(layers=3)
    return Segmenter.from_pretrained(model, "clip", tokenizer=tiny_tokenizer(), networks=networks)


def picture(height: int = 56, width: int = 72, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)


def decoded(text: str) -> list[Image.Image]:
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_columns_are_the_methods_own_labels(segmenter):
    images = [picture(), picture(64, 56, seed=1)]
    sheet = compare(segmenter, images, WORDS, METHODS, "none", settings=SETTINGS)
    assert sheet.methods == METHODS
    assert sheet.names == tuple(WORDS)
    for row, image in zip(sheet.rows, images, strict=True):
        for text, labels in zip(METHODS, row.labels, strict=True):
            name, _, refiner = text.partition("+")
            refine = [(refiner, {"steps": 3})] if refiner else None
            alone = segmenter.with_method(name, None, {"short_side": 56}, refine)
            agreed = (alone(image, WORDS, "none").labels == labels).mean()
            assert agreed > 0.999, text  # shared passes differ by rounding
    assert np.any(sheet.rows[0].labels[0] != sheet.rows[0].labels[2])


def test_methods_of_the_same_pixels_share_a_pass(segmenter, monkeypatch):
    passes = []
    trace = ClipTower.trace

    def counted(self, *arguments, **options):
        passes.append(1)
        return trace(self, *arguments, **options)

    monkeypatch.setattr(ClipTower, "trace", counted)
    methods = ("sclip", "sclip+pamr", "clip", "naclip")
    compare(segmenter, [picture()], WORDS, methods, "none", settings=("short_side=56",))
    assert len(passes) == 1


def test_targets_give_the_miou_of_a_picture(segmenter, tmp_path):
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"p{i}.png")
        Image.fromarray(picture(seed=i)).save(paths[-1])
    mask = np.ones((56, 72), np.uint8)
    mask[:, 30:] = 3
    mask[:8] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "p0.png")
    sheet = compare(
        segmenter, paths, WORDS, ["clip"], "none", tmp_path / "masks", ("short_side=56",)
    )
    first, second = sheet.rows
    assert first.name == "p0.png"
    assert second.target is None
    assert sheet.miou(second, 0) is None
    scored, labels = mask != 255, first.labels[0]
    ious = []
    for i in (1, 2, 3):
        target, found = (mask == i) & scored, (labels == i) & scored
        if (target | found).any():
            ious.append((target & found).sum() / (target | found).sum())
    assert sheet.miou(first, 0) == pytest.approx(np.mean(ious))
    assert f"clip: {100 * np.mean(ious):.0f}" in sheet.html()
    assert "no target" in sheet.html()
    given = compare(segmenter, paths, WORDS, ["clip"], "none", [mask, None], ("short_side=56",))
    assert np.array_equal(given.rows[0].target, first.target)
    assert (first.target[:8] == VOID).all()


def test_a_colour_is_a_class_on_the_whole_sheet():
    image = picture(16, 16)
    one, three = np.full((16, 16), 1, np.uint8), np.full((16, 16), 3, np.uint8)
    rows = (
        Row("a", image, None, (one, three)),
        Row("b<", image, one.astype(np.uint16), (one, one)),
    )
    sheet = Sheet(("x", "y"), ("cat & dog", "sofa", "sky"), rows)
    colours = drawing.palette(3).tolist()
    assert sheet.legend == [("cat & dog", tuple(colours[1])), ("sky", tuple(colours[3]))]
    text = sheet.html()
    assert "cat &amp; dog" in text
    assert "b&lt;" in text
    assert f"#{bytes(colours[3]).hex()}" in text
    panels = decoded(text)
    assert len(panels) == 2 * 4
    x, y = (np.asarray(panels[i], float).mean((0, 1)) for i in (2, 3))
    assert np.abs(x - colours[1]).max() < 15
    assert np.abs(y - colours[3]).max() < 15
    drawn = sheet.image()
    assert drawn.width > 4 * 200
    assert np.asarray(drawn).std() > 20


def test_many_classes_on_a_sheet_have_numbers(monkeypatch):
    names = tuple(f"class {i}" for i in range(1, 15))
    image = np.full((60, 140, 3), 90, np.uint8)
    few = np.full((60, 140), 14, np.uint8)
    many = np.arange(1, 15, dtype=np.uint8).repeat(10)[None].repeat(60, axis=0)
    drawn = []
    write = drawing._number
    monkeypatch.setattr(
        drawing, "_number", lambda d, text, *at: drawn.append(text) or write(d, text, *at)
    )
    Sheet(("a",), names, (Row("x", image, None, (few,)),)).image()
    assert not drawn
    sheet = Sheet(("a", "b"), names, (Row("x", image, None, (few, many)),))
    sheet.image()
    assert drawn.count("14") == 3  # both panels and the legend
    assert drawn.count("5") == 2
    assert "</span>5 class 5" in sheet.html()


def test_pictures_of_a_benchmark_under_its_protocol():
    plan = Plan(
        ("clip", "clearclip"),
        ("toybox",),
        model="wordmask/tiny-clip",
        settings=("short_side=none",),
    )
    sheet = compare_benchmark(plan, 2)
    assert sheet.methods == ("clip", "clearclip")
    assert sheet.has_targets
    ids = [row.name for row in sheet.rows]
    assert len(set(ids)) == 2
    again = compare_benchmark(plan, ids=ids[1:])
    assert [row.name for row in again.rows] == ids[1:]
    assert np.array_equal(again.rows[0].labels[1], sheet.rows[1].labels[1])
    clip, clearclip = (np.mean([sheet.miou(row, i) for row in sheet.rows]) for i in (0, 1))
    assert clearclip > clip  # as in `wordmask selftest`
    with pytest.raises(WordmaskError, match="has no picture 'none'"):
        compare_benchmark(plan, ids=["none"])
    with pytest.raises(WordmaskError, match="got 0 pictures"):
        compare_benchmark(plan, 0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"methods": ["nothing"]}, "unknown method 'nothing'"),
        ({"methods": []}, "no picture or no method"),
        ({"settings": ["view=halves"]}, "is for benchmarks"),
        ({"targets": [None, None]}, "got 2 targets for 1 pictures"),
        ({"targets": [np.full((56, 72), 9, np.uint8)]}, "labels up to 9"),
        ({"targets": [np.zeros((5, 5), np.uint8)]}, r"shape \(5, 5\)"),
        ({"targets": "nowhere"}, "not a folder"),
    ],
)
def test_what_cannot_be_compared_is_said(segmenter, more, said):
    given = {"pictures": [picture()], "words": WORDS, "methods": ["clip"]} | more
    with pytest.raises(WordmaskError, match=said):
        compare(segmenter, **given)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture()).save("a.png")
    model = ["--model", "wordmask/tiny-clip", "--set", "short_side=none", "-b", "none"]
    words = ["-c", "grass; sand", "--methods", "clip,clearclip+pamr"]
    assert command(["compare", "a.png", *words, *model, "--out", "out/sheet.html"]) == 0
    assert capsys.readouterr().out.split() == ["out/sheet.html"]
    assert len(decoded((tmp_path / "out" / "sheet.html").read_text())) == 3
    assert command(["compare", "a.png", *words, *model]) == 0
    assert Image.open("compared.png").width > 700
    for arguments, said in (
        (["a.png", *words, *model, "--out", "sheet.gif"], "ends in .png or .html"),
        ([*words, *model], "either photos or --dataset"),
        (["--dataset", "toybox", *words, *model], "has its own classes"),
        (["a.png", "--methods", "clip", *model], "no classes given"),
        (["a.png", *words, *model, "--vfm", "x"], "neither clip nor a refiner uses it"),
    ):
        assert command(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err
