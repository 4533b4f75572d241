"""`wordmask segment --format` of a whole folder, `wordmask convert` and `wordmask formats`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import CLASSES, FAST, files, one_line_error, picture
from wordmask.cli import run
from wordmask.formats import FORMATS, split_formats


@pytest.fixture
def segment(model):
    for name in ("a", "s/b", "c"):
        picture(f"p/{name}.png", (24, 32))

    def command(*arguments):
        return run(["segment", "p", "-c", CLASSES, "--model", model, *FAST, *arguments])

    return command


def pixels(data):
    """Area of all annotations of each picture."""
    count = {one["file_name"]: 0 for one in data["images"]}
    names = {one["id"]: one["file_name"] for one in data["images"]}
    for one in data["annotations"]:
        count[names[one["image_id"]]] += one["area"]
    return count


def test_a_folder_is_segmented_into_formats_of_all_pictures(segment, capsys):
    assert segment("--out", "o", "-f", "coco,yolo-seg") == 0
    made = files("o")
    for name in ("a_labels.png", "s/b_labels.png", "coco.json", "yolo/data.yaml",
                 "yolo/labels/s/b.txt", "yolo/images/s/b.png"):  # fmt: skip
        assert name in made
    data = json.loads(Path("o/coco.json").read_text())
    assert [one["name"] for one in data["categories"]] == ["photo", "cat"]
    labels = {name: np.asarray(Image.open(f"o/{name}_labels.png")) for name in ("a", "s/b", "c")}
    assert pixels(data) == {f"{name}.png": int((one > 0).sum()) for name, one in labels.items()}

    before = Path("o/a_labels.png").stat().st_mtime_ns
    Path("o/coco.json").unlink()  # killed before the end: the pictures are not made again
    assert segment("--out", "o", "-f", "coco,yolo-seg") == 0
    assert "3 skipped" in capsys.readouterr().out
    assert json.loads(Path("o/coco.json").read_text()) == data
    assert Path("o/a_labels.png").stat().st_mtime_ns == before

    picture("p/d.png", (24, 32))  # a picture more: all are in the new file
    assert segment("--out", "o", "-f", "coco") == 0
    assert set(pixels(json.loads(Path("o/coco.json").read_text()))) == {*pixels(data), "d.png"}


def test_shards_leave_the_formats_of_all_to_the_end(segment, capsys):
    for part in ("1/2", "2/2"):
        assert segment("--out", "o", "-f", "coco,cvat", "--shard", part) == 0
        assert "coco is of all pictures: run the same without --shard" in capsys.readouterr().out
        assert not Path("o/coco.json").exists()
    assert run(["convert", "o", "-f", "coco,cvat"]) == 0
    data = json.loads(Path("o/coco.json").read_text())
    assert set(pixels(data)) == {"a.png", "s/b.png", "c.png"}


def test_renamed_pictures(segment):
    assert segment("--out", "o", "-f", "coco,json,masks") == 0
    data = json.loads(Path("o/coco.json").read_text())
    Path("o/a_masks/9_old.png").touch()
    picture("p/a.png", (24, 33))  # another picture of that name: its masks are all new
    Path("p/c.png").rename("p/d.png")
    masks = sorted(Path("o/c_masks").iterdir())
    assert segment("--out", "o", "-f", "coco,json,masks") == 0
    again = json.loads(Path("o/coco.json").read_text())
    assert set(pixels(again)) == {"a.png", "s/b.png", "d.png"}
    assert pixels(again)["d.png"] == pixels(data)["c.png"]
    assert not Path("o/a_masks/9_old.png").exists()
    assert sorted(one.name for one in Path("o/d_masks").iterdir()) == [one.name for one in masks]
    summary = json.loads(Path("o/d.json").read_text())
    assert summary["labels"] == "d_labels.png"
    assert summary["picture"].endswith("p/d.png")


def test_names_that_are_no_text(segment):
    os.rename("p/a.png", b"p/\xff\xfe.png")
    whole = ",".join(one.name for one in split_formats(FORMATS)[1])
    assert segment("--out", "o", "-f", f"{whole},json") == 0
    names = set(pixels(json.loads(Path("o/coco.json").read_text(encoding="utf-8"))))
    assert names == {"\ufffd\ufffd.png", "s/b.png", "c.png"}
    assert Path("o/yolo/labels/\ufffd\ufffd.txt").is_file()


def test_results_among_the_pictures_are_no_pictures(segment, capsys):
    for _ in range(2):
        assert segment("--out", "p", "-f", "masks,cutouts,yolo-seg,voc,coco-panoptic") == 0
    assert "3 skipped" in capsys.readouterr().out
    assert len(files("p/yolo/labels")) == 3


def test_convert_equals_segment(segment, capsys):
    assert segment("--out", "o", "-f", "labels,coco-polygons,cvat,masks") == 0
    capsys.readouterr()
    assert run(["convert", "o", "-f", "coco-polygons,cvat", "-f", "masks", "--out", "d"]) == 0
    assert capsys.readouterr().out.split() == ["d", "d/coco_polygons.json", "d/cvat.zip"]
    for name in files("d"):
        assert Path("d", name).read_bytes() == Path("o", name).read_bytes()
    assert set(files("o")) - set(files("d")) >= {"a_labels.png", "wordmask.json"}
    assert run(["convert", "p", "-f", "coco"]) == 2
    assert "p holds no results; give the --out folder" in one_line_error(capsys)
    assert run(["convert", "o", "-f", "cocoa"]) == 2
    assert "unknown format 'cocoa'; did you mean coco" in one_line_error(capsys)


def test_pictures_in_the_way_are_said_before_the_model_is_loaded(capsys):
    picture("p/yolo/a.png")
    picture("p/b.png")
    arguments = ["segment", "p", "-c", "a", "--model", "none", "-f", "yolo-seg"]
    assert run(arguments) == 2
    assert "the results of 'yolo/a' would lie where the format yolo-seg" in one_line_error(capsys)
    assert not Path("masks").exists()


def test_formats_lists_all(capsys):
    assert run(["formats"]) == 0
    listed = capsys.readouterr().out
    assert all(f" {name} " in listed for name in FORMATS)
