"""The benchmarks: label tables by hand, every layout in a small made copy, right and wrong ones."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wordmask import Background, Vocabulary, WordmaskError, read_image, toybox
from wordmask.cli import run
from wordmask.datasets import (
    BENCHMARKS,
    SOURCES,
    VOID,
    ade20k,
    benchmark,
    cityscapes,
    coco27,
    coco_object,
    coco_stuff,
    context,
    toyscenes,
    verify,
    voc,
)
from wordmask.datasets.context import val_ids
from wordmask.datasets.names import read_names
from wordmask.datasets.reading import INVALID, IndexMask, look_up, picture_size, read_index, table

HEIGHT, WIDTH = 6, 8


SIZES = {name: bench.size for name, bench in BENCHMARKS.items() if bench.size}


@pytest.fixture(autouse=True)
def _small_pictures(request, monkeypatch):
    """Made copies are small, also of benchmarks whose pictures have one size."""
    if "shared" not in request.fixturenames:
        for name in SIZES:
            small = dataclasses.replace(BENCHMARKS[name], size=(HEIGHT, 2 * WIDTH))
            monkeypatch.setitem(BENCHMARKS._known, name, small)


# -- making small copies ---------------------------------------------------------------------------


@dataclass
class Copy:
    """A made copy: what the labels must be, and the first sample's files."""

    name: str
    root: Path
    targets: dict[str, np.ndarray]
    pictures: list[Path]
    masks: list[Path]


def photograph(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 150)).save(path)
    return path


def blocks(*values: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A map whose columns run through the values."""
    columns = np.resize(np.array(values), size[1])
    return np.broadcast_to(columns, size).copy()


def png(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 759)
    image.save(path)
    return path


def mat(path: Path, variable: str, values: np.ndarray) -> Path:
    io_module = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    io_module.savemat(path, {variable: values}, do_compression=True)
    return path


def text(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def make(
    name: str,
    root: Path,
    raw: list[tuple[str, np.ndarray]],
    targets: list[np.ndarray],
    picture: Callable[[str], str],
    mask: Callable[[str], str],
    write: Callable[[Path, np.ndarray], Path] = png,
) -> Copy:
    """Write pictures and masks where the two functions say, by the id of the sample."""
    pictures = [photograph(root / picture(one), values.shape) for one, values in raw]
    masks = [write(root / mask(one), values) for one, values in raw]
    by_id = {one: target for (one, _), target in zip(raw, targets, strict=True)}
    return Copy(name, root, by_id, pictures, masks)


def make_voc(root: Path, name: str = "voc21") -> Copy:
    ids = ["2007_000033", "2011_003271"]
    first, last = blocks(0, 1, 20, 255), blocks(15, 15, 0)
    wanted = [blocks(0, 1, 20, VOID), blocks(15, 15, 0)]
    if name == "voc20":
        wanted = [blocks(VOID, 1, 20, VOID), blocks(15, 15, VOID)]
    base = "VOCdevkit/VOC2012"
    split = {"voc_train": "train", "voc_train_aug": "train_aug"}.get(name, "val")
    masks = "SegmentationClassAug" if split == "train_aug" else "SegmentationClass"
    text(root / base / f"ImageSets/Segmentation/{split}.txt", ids)
    return make(
        name, root, list(zip(ids, (first, last), strict=True)), wanted,
        lambda one: f"{base}/JPEGImages/{one}.jpg",
        lambda one: f"{base}/{masks}/{one}.png",
        lambda path, values: png(path, values, "P"),
    )  # fmt: skip


def make_voc_train(root: Path) -> Copy:
    return make_voc(root, "voc_train")


def make_voc_train_aug(root: Path) -> Copy:
    return make_voc(root, "voc_train_aug")


def make_voc20(root: Path) -> Copy:
    return make_voc(root, "voc20")


def make_context(root: Path, name: str = "context60") -> Copy:
    ids = ["2008_000002", "2008_000003"]
    # Numbers of the 459: aeroplane 2, accordion 1, table 397, wood 458; 0 is nothing.
    raw = [blocks(0, 1, 2, 397).astype(np.uint16), blocks(458, 459).astype(np.uint16)]
    wanted = {
        "context60": [blocks(0, 0, 1, 50), blocks(59, 0)],
        "context59": [blocks(VOID, VOID, 1, 50), blocks(59, VOID)],
        "context459": [blocks(VOID, 1, 2, 397), blocks(458, 459)],
    }[name]
    return make(
        name, root, list(zip(ids, raw, strict=True)), wanted,
        lambda one: f"VOCdevkit/VOC2010/JPEGImages/{one}.jpg",
        lambda one: f"VOCdevkit/VOC2010/trainval/{one}.mat",
        lambda path, values: mat(path, "LabelMap", values),
    )  # fmt: skip


def make_context59(root: Path) -> Copy:
    return make_context(root, "context59")


def make_context459(root: Path) -> Copy:
    return make_context(root, "context459")


def make_context_png(root: Path) -> Copy:
    ids = ["2008_000002", "2008_000003"]
    text(root / "VOC2010/ImageSets/SegmentationContext/val.txt", ids)
    raw = [blocks(0, 1, 59), blocks(30)]
    return make(
        "context60", root, list(zip(ids, raw, strict=True)), raw,
        lambda one: f"VOC2010/JPEGImages/{one}.jpg",
        lambda one: f"VOC2010/SegmentationClassContext/{one}.png",
    )  # fmt: skip


def make_coco(root: Path, name: str = "coco_stuff") -> Copy:
    ids = ["000000000139", "000000581781"]
    # Pixel maps hold the category id less 1: person 0, toothbrush 89, banner 91, wood 181.
    raw = [blocks(0, 89, 91, 181), blocks(12, 255)]  # 12 is stop sign
    wanted = {
        "coco_stuff": [blocks(1, 80, 81, 171), blocks(12, VOID)],
        "coco_object": [blocks(1, 80, 0, 0), blocks(12, VOID)],
        "coco27": [blocks(10, 5, 18, 25), blocks(9, VOID)],
    }[name]
    return make(
        name, root, list(zip(ids, raw, strict=True)), wanted,
        lambda one: f"coco/images/val2017/{one}.jpg",
        lambda one: f"coco/stuffthingmaps/val2017/{one}.png",
    )  # fmt: skip


def make_coco_object(root: Path) -> Copy:
    return make_coco(root, "coco_object")


def make_coco27(root: Path) -> Copy:
    return make_coco(root, "coco27")


def make_coco_object_converted(root: Path) -> Copy:
    raw = [("000000000139", blocks(0, 1, 80, 255))]
    return make(
        "coco_object", root, raw, [blocks(0, 1, 80, VOID)],
        lambda one: f"val2017/{one}.jpg",
        lambda one: f"annotations/val2017/{one}_instanceTrainIds.png",
    )  # fmt: skip


def make_coco_train(root: Path) -> Copy:
    raw = [("000000000009", blocks(0, 1, 80, 255)), ("000000000025", blocks(12))]
    return make(
        "coco_train", root, raw, [blocks(0, 1, 80, VOID), blocks(12)],
        lambda one: f"images/train2014/COCO_train2014_{one}.jpg",
        lambda one: f"object_masks/train2014/{one}.png",
    )  # fmt: skip


def make_stuff10k(root: Path) -> Copy:
    ids = ["COCO_train2014_000000000077", "COCO_train2014_000000581906"]
    text(root / "imageLists/test.txt", ids)
    # The MATLAB files hold the category id, and doubles.
    raw = [blocks(0, 1, 90, 92).astype(float), blocks(182, 13).astype(float)]
    return make(
        "coco_stuff10k", root, list(zip(ids, raw, strict=True)),
        [blocks(VOID, 1, 80, 81), blocks(171, 12)],
        lambda one: f"images/{one}.jpg",
        lambda one: f"annotations/{one}.mat",
        lambda path, values: mat(path, "S", values),
    )  # fmt: skip


def make_cityscapes(root: Path, name: str = "cityscapes", train_ids: bool = False) -> Copy:
    ids = ["frankfurt/frankfurt_000000_000294", "munster/munster_000173_000019"]
    size = (HEIGHT, 2 * WIDTH)
    raw = [blocks(0, 6, 7, 8, 9, 33, size=size), blocks(24, size=size)]
    wanted = {
        "cityscapes": [blocks(VOID, VOID, 1, 2, VOID, 19, size=size), blocks(12, size=size)],
        "cityscapes27": [blocks(VOID, VOID, 1, 2, 3, 27, size=size), blocks(18, size=size)],
    }[name]
    if train_ids:
        raw = [blocks(255, 255, 0, 1, 255, 18, size=size), blocks(11, size=size)]
    ending = "gtFine_labelTrainIds" if train_ids else "gtFine_labelIds"
    return make(
        name, root, list(zip(ids, raw, strict=True)), wanted,
        lambda one: f"leftImg8bit/val/{one}_leftImg8bit.png",
        lambda one: f"gtFine/val/{one}_{ending}.png",
    )  # fmt: skip


def make_cityscapes27(root: Path) -> Copy:
    return make_cityscapes(root, "cityscapes27")


def make_cityscapes_train_ids(root: Path) -> Copy:
    return make_cityscapes(root, train_ids=True)


def make_ade150(root: Path) -> Copy:
    raw = [("ADE_val_00000001", blocks(0, 1, 150)), ("ADE_val_00000002", blocks(13))]
    return make(
        "ade150", root, raw, [blocks(VOID, 1, 150), blocks(13)],
        lambda one: f"ADEChallengeData2016/images/validation/{one}.jpg",
        lambda one: f"ADEChallengeData2016/annotations/validation/{one}.png",
    )  # fmt: skip


# Numbers of five objects in index_ade20k.pkl of 2021_17_01, as released converters have them.
OBJECT_NUMBERS = {
    "wall": 2978,
    "building, edifice": 312,
    "sky": 2420,
    "tree": 2855,
    "person, individual, someone, somebody, mortal, soul": 1831,
}


def ade_objects() -> list[str]:
    """3,688 names of objects, the five where they really are."""
    classes = [name for (name,) in read_names("cliptrase", "ade847")]
    names = [f"nothing known {number}" for number in range(1, 3689)]
    for name, number in OBJECT_NUMBERS.items():
        names[number - 1] = name
    free = iter(number for number in range(1, 3689) if number not in OBJECT_NUMBERS.values())
    for name in classes:
        if name not in OBJECT_NUMBERS:
            names[next(free) - 1] = name.capitalize()  # the index has "Lord's"
    return names


def make_ade847(root: Path) -> Copy:
    base = "ADE20K_2021_17_01"
    index = root / base / "index_ade20k.pkl"
    index.parent.mkdir(parents=True)
    content = {"objectnames": np.array(ade_objects()), "objectPresence": np.zeros((2, 2))}
    index.write_bytes(pickle.dumps(content, protocol=2))

    def write(path: Path, numbers: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        red, green = numbers // 256 * 10 + 7, numbers % 256  # the last digit of red says the part
        colours = np.stack([red, green, np.full_like(red, 33)], -1)
        Image.fromarray(colours.astype(np.uint8)).save(path)
        return path

    raw = [
        ("ADE_val_00000001", blocks(2978, 312, 0, 3688)),  # 3688 is none of the 847
        ("ADE_val_00000002", blocks(2420, 2855, 1831)),
    ]
    scenes = {"ADE_val_00000001": "urban/street", "ADE_val_00000002": "cultural/church__indoor"}
    wanted = [blocks(1, 2, VOID, VOID), blocks(3, 4, 12)]
    return make(
        "ade847", root, raw, wanted,
        lambda one: f"{base}/images/ADE/validation/{scenes[one]}/{one}.jpg",
        lambda one: f"{base}/images/ADE/validation/{scenes[one]}/{one}_seg.png",
        write,
    )  # fmt: skip


def tif(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


def make_ade847_converted(root: Path) -> Copy:
    raw = [("ADE_val_00000001", blocks(0, 846, 65535))]
    return make(
        "ade847", root, raw, [blocks(1, 847, VOID)],
        lambda one: f"images_detectron2/validation/{one}.jpg",
        lambda one: f"annotations_detectron2/validation/{one}.tif",
        tif,
    )  # fmt: skip


def make_camvid(root: Path, name: str = "camvid", split: str = "val") -> Copy:
    size = (HEIGHT, 2 * WIDTH)
    raw = [("0016E5_07959", blocks(0, 10, 11, size=size)), ("0016E5_07961", blocks(5, size=size))]
    return make(
        name, root, raw, [blocks(1, 11, VOID, size=size), blocks(6, size=size)],
        lambda one: f"CamVid/{split}/{one}.png",
        lambda one: f"CamVid/{split}annot/{one}.png",
    )  # fmt: skip


def make_camvid_test(root: Path) -> Copy:
    return make_camvid(root, "camvid_test", "test")


def make_folder(root: Path) -> Copy:
    text(root / "names.txt", ["# mine", "cat\tkitty", "dog, big"])
    raw = [("a", blocks(0, 1, 255)), ("b", blocks(1))]
    return make(
        "folder", root, raw, [blocks(1, 2, VOID), blocks(2)],
        lambda one: f"images/{one}.{'webp' if one == 'a' else 'png'}",
        lambda one: f"masks/{one}.png",
    )  # fmt: skip


def make_folder_background(root: Path) -> Copy:
    text(root / "classes.txt", ["Background", *(f"thing {number}" for number in range(1, 301))])
    raw = [("a", blocks(0, 255, 300, 65535))]
    return make(
        "folder", root, raw, [blocks(0, 255, 300, VOID)],
        lambda one: f"images/{one}.jpg",
        lambda one: f"labels/{one}.tif",
        tif,
    )  # fmt: skip


MAKERS = {
    function.__name__.removeprefix("make_"): function
    for function in (
        make_voc,
        make_voc20,
        make_voc_train,
        make_voc_train_aug,
        make_context,
        make_context59,
        make_context459,
        make_context_png,
        make_coco,
        make_coco_object,
        make_coco_object_converted,
        make_coco_train,
        make_coco27,
        make_stuff10k,
        make_cityscapes,
        make_cityscapes27,
        make_cityscapes_train_ids,
        make_ade150,
        make_ade847,
        make_ade847_converted,
        make_camvid,
        make_camvid_test,
        make_folder,
        make_folder_background,
    )
}
each_layout = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())


# -- right copies ----------------------------------------------------------------------------------


def test_every_benchmark_with_files_is_made_here(tmp_path):
    made = {maker(tmp_path / key).name for key, maker in MAKERS.items()}
    assert set(BENCHMARKS) - made == {"toybox", "coco_object_instances"}


@each_layout
def test_reads_every_layout(maker, tmp_path):
    copy = maker(tmp_path)
    bench = benchmark(copy.name)
    samples = bench.open(tmp_path)
    assert [sample.id for sample in samples] == list(copy.targets)
    for sample, path in zip(samples, copy.pictures, strict=True):
        target = sample.target()
        assert target.dtype == np.uint16
        np.testing.assert_array_equal(target, copy.targets[sample.id])
        assert sample.image == path
        assert read_image(sample.image).shape[:2] == target.shape
    report = verify(bench, tmp_path)
    assert report.problems == ()
    assert report.images == len(samples)
    if bench.expected:
        assert report.notes[0] == f"{len(samples)} of {bench.expected:,} images"
        assert verify(bench, tmp_path, complete=True).problems == (report.notes[0],)


@each_layout
def test_samples_travel_to_other_processes(maker, tmp_path):
    copy = maker(tmp_path)
    samples = benchmark(copy.name).open(tmp_path)
    again = pickle.loads(pickle.dumps(samples))
    np.testing.assert_array_equal(again[0].target(), samples[0].target())
    assert len(samples[:1]) == 1
    assert samples[:1].benchmark == samples.benchmark


@each_layout
def test_listing_opens_no_mask(maker, tmp_path):
    copy = maker(tmp_path)
    for mask in copy.masks:
        mask.write_bytes(b"never read")
    assert len(benchmark(copy.name).open(tmp_path)) == len(copy.targets)


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_root_may_be_any_folder_around_voc(root, tmp_path):
    make_voc(tmp_path)
    assert len(benchmark("voc21").open(tmp_path / root)) == 2


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2010"])
def test_root_may_be_any_folder_around_context(root, tmp_path):
    make_context(tmp_path)
    assert len(benchmark("context59").open(tmp_path / root)) == 2


def test_context_annotation_may_lie_beside_the_photographs(tmp_path):
    copy = make_context(tmp_path)
    copy.masks[0].parent.rename(tmp_path / "trainval")
    assert len(benchmark("context60").open(tmp_path)) == 2


def test_one_root_may_hold_all_benchmarks(tmp_path):
    makers = [make_voc, make_context, make_coco, make_cityscapes, make_ade150, make_ade847]
    copies = [maker(tmp_path) for maker in [*makers, make_camvid]]
    (tmp_path / "val").mkdir()  # somebody's
    for copy in copies:
        assert verify(benchmark(copy.name), tmp_path).problems == ()


def test_voc_masks_of_the_augmented_set_serve(tmp_path):
    copy = make_voc(tmp_path)
    copy.masks[0].parent.rename(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug")
    np.testing.assert_array_equal(
        benchmark("voc21").open(tmp_path)[0].target(), copy.targets["2007_000033"]
    )


def test_pixel_maps_beside_converted_ones_are_those_read(tmp_path):
    copy = make_coco(tmp_path, "coco_object")
    for mask in copy.masks:
        for ending in ("_labelTrainIds", "_instanceTrainIds"):
            png(mask.with_name(f"{mask.stem}{ending}.png"), blocks(7))
    for name in ("coco_object", "coco_stuff", "coco27"):
        assert [s.id for s in benchmark(name).open(tmp_path)] == list(copy.targets)
    np.testing.assert_array_equal(
        benchmark("coco_object").open(tmp_path)[0].target(), copy.targets["000000000139"]
    )


def test_coco27_takes_the_curated_list(tmp_path):
    make_coco(tmp_path, "coco27")
    bench = benchmark("coco27")
    assert len(bench.open(tmp_path)) == 2
    text(tmp_path / "coco" / coco27.CURATED, ["000000581781"])
    samples = bench.open(tmp_path)
    assert [sample.id for sample in samples] == ["000000581781"]
    assert samples.benchmark.expected == 2175
    text(tmp_path / "coco" / coco27.CURATED, ["000000581781", "000000000001"])
    with pytest.raises(WordmaskError, match=r"1 of 2 ids .*curated.*000000000001"):
        bench.open(tmp_path)


def test_folder_knows_its_names_once_opened(tmp_path):
    make_folder(tmp_path)
    bench = benchmark("folder").open(tmp_path).benchmark
    assert bench.names == {"plain": (("cat", "kitty"), ("dog, big",))}
    assert (bench.classes, bench.has_background) == (2, False)
    other = tmp_path / "other"
    make_folder_background(other)
    bench = benchmark("folder").open(other).benchmark
    assert (bench.classes, bench.has_background) == (300, True)
    assert bench.names["plain"][0] == ("thing 1",)


def test_folder_without_names_or_with_the_background_alone(tmp_path):
    make_folder(tmp_path)
    text(tmp_path / "names.txt", ["background"])
    with pytest.raises(WordmaskError, match="no class besides the background"):
        benchmark("folder").open(tmp_path)
    (tmp_path / "names.txt").unlink()
    with pytest.raises(WordmaskError, match=r"tried .*names\.txt.*classes\.txt"):
        benchmark("folder").open(tmp_path)


def test_toybox_needs_no_files():
    bench = dataclasses.replace(benchmark("toybox"), expected=3)
    samples = bench.open()
    assert len(samples) == 3
    scene = toybox.fresh_scenes(3)[1]
    np.testing.assert_array_equal(samples[1].image, scene.image)
    target = samples[1].target()
    assert target.dtype == np.uint16
    assert set(np.unique(target)) == {
        *(toyscenes.NAMES.index(ground) + 1 for ground in scene.grounds),
        *(toyscenes.NAMES.index(f"{t.colour} {t.surface}") + 1 for t in scene.things),
    }
    assert target.min() >= 1
    assert toyscenes.NAMES == toybox.NAMES
    other = dataclasses.replace(bench, seed=1).open()
    assert not np.array_equal(other[0].image, samples[0].image)
    assert verify(bench).problems == ()


# -- instances -------------------------------------------------------------------------------------


def write_instances(root: Path, **changes: object) -> Path:
    """A 10 x 10 picture: a large person, a small cup on it, a crowd that reaches beyond both."""
    square = [[0, 0, 8, 0, 8, 8, 0, 8]]  # x, y pairs; pixels 0 to 7
    small = [[2, 2, 4, 2, 4, 4, 2, 4]]
    crowd = {"size": [10, 10], "counts": [60, 40]}  # columns 6 to 9, run by run down the columns
    annotations = [
        {"image_id": 139, "category_id": 47, "area": 4, "segmentation": small, "iscrowd": 0},
        {"image_id": 139, "category_id": 1, "area": 64, "segmentation": square, "iscrowd": 0},
        {"image_id": 139, "category_id": 1, "area": 400, "segmentation": crowd, "iscrowd": 1},
    ]
    images = [
        {"id": 285, "file_name": "000000000285.jpg", "height": 5, "width": 7},
        {"id": 139, "file_name": "000000000139.jpg", "height": 10, "width": 10},
    ]
    path = root / "annotations/instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, **changes}))
    photograph(root / "val2017/000000000139.jpg", (10, 10))
    photograph(root / "val2017/000000000285.jpg", (5, 7))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_instances_are_painted_small_over_large_over_crowds(tmp_path):
    pytest.importorskip("pycocotools")
    write_instances(tmp_path)
    samples = benchmark("coco_object_instances").open(tmp_path)
    assert [sample.id for sample in samples] == ["000000000139", "000000000285"]
    wanted = np.zeros((10, 10), np.uint16)
    wanted[:, 6:] = VOID
    wanted[:8, :8] = 1
    wanted[2:4, 2:4] = 42  # cup, id 47, is the 42nd thing
    np.testing.assert_array_equal(samples[0].target(), wanted)
    assert not samples[1].target().any()  # nothing annotated is all background
    assert pickle.loads(pickle.dumps(samples[0])).target().shape == (10, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 139}]}, "not an instance annotation of COCO"),
        ({"annotations": [{"image_id": 4}]}, "not an instance annotation of COCO"),
        (
            {"annotations": [{"image_id": 139, "category_id": 12, "area": 1, "segmentation": []}]},
            "category id 12, which COCO does not use",
        ),
        (
            {
                "images": [{"id": 7, "file_name": "7.jpg", "height": 1, "width": 1}],
                "annotations": [],
            },
            "no picture for 1 of 1 ids",
        ),
    ],
)
def test_wrong_instance_annotations(changes, message, tmp_path):
    write_instances(tmp_path, **changes)
    with pytest.raises(WordmaskError, match=message):
        benchmark("coco_object_instances").open(tmp_path)


def test_an_outline_that_cannot_be_used_is_named(tmp_path):
    pytest.importorskip("pycocotools")
    wrong = {"image_id": 139, "category_id": 1, "area": 1, "segmentation": {"size": [2, 2]}}
    write_instances(tmp_path, annotations=[wrong])
    with pytest.raises(WordmaskError, match=r"outline .*000000000139\.jpg cannot be used"):
        benchmark("coco_object_instances").open(tmp_path)[0].target()


def test_coco_train_takes_its_part_of_the_maps_of_train2017(tmp_path):
    for number, values in ((9, blocks(0, 89, 91, 255)), (30, blocks(1))):
        png(tmp_path / f"coco/stuffthingmaps/train2017/{number:012}.png", values)
    photograph(tmp_path / "coco/train2014/COCO_train2014_000000000009.jpg")
    (sample,) = benchmark("coco_train").open(tmp_path)
    assert sample.id == "000000000009"
    assert np.array_equal(sample.target(), blocks(1, 80, 0, VOID))


def test_a_missing_instance_annotation_is_named(tmp_path):
    write_instances(tmp_path).unlink()
    with pytest.raises(WordmaskError, match=r"no annotation .*instances_val2017\.json"):
        benchmark("coco_object_instances").open(tmp_path)


# -- wrong copies ----------------------------------------------------------------------------------


def problems(copy: Copy) -> tuple[str, ...]:
    """What `verify` says, after making sure that the command line says it too, with exit code 2."""
    report = verify(benchmark(copy.name), copy.root)
    assert report.problems
    assert all("\n" not in problem for problem in report.problems)
    assert run(["datasets", "check", copy.name, "--root", str(copy.root)]) == 2
    return report.problems


@each_layout
def test_missing_mask(maker, tmp_path):
    copy = maker(tmp_path)
    copy.masks[0].unlink()
    if len(copy.masks) > 1:
        (problem,) = problems(copy)
        assert problem.startswith("no mask for 1 of 2 ids")
        assert next(iter(copy.targets)) in problem
    with pytest.raises(WordmaskError):
        benchmark(copy.name).open(tmp_path)


@each_layout
def test_missing_picture(maker, tmp_path):
    copy = maker(tmp_path)
    copy.pictures[0].unlink()
    if len(copy.pictures) > 1:
        (problem,) = problems(copy)
        assert problem.startswith("no picture for 1 of 2 ids")
        assert next(iter(copy.targets)) in problem
    with pytest.raises(WordmaskError):
        benchmark(copy.name).open(tmp_path)


@each_layout
def test_size_mismatch(maker, tmp_path):
    copy = maker(tmp_path)
    photograph(copy.pictures[0], (HEIGHT + 1, WIDTH + 3))
    (problem,) = problems(copy)
    assert next(iter(copy.targets)) in problem
    assert f"the picture {WIDTH + 3} x {HEIGHT + 1}" in problem
    with pytest.raises(WordmaskError, match="must have one size"):
        benchmark(copy.name).open(tmp_path)[0].target()


@each_layout
def test_value_out_of_range(maker, tmp_path):
    copy = maker(tmp_path)
    mask, size = copy.masks[0], next(iter(copy.targets.values())).shape
    strange = {".mat": 9999, ".tif": 60000}.get(mask.suffix, 254)
    if copy.name.startswith("coco"):
        converted = "TrainIds" in mask.name or "object_masks" in mask.parts
        strange = {".mat": 12, ".png": 81 if converted else 11}[mask.suffix]
    values = np.full(size, strange)
    if mask.suffix == ".mat":
        mat(mask, "S" if copy.name == "coco_stuff10k" else "LabelMap", values.astype(np.uint16))
    elif mask.suffix == ".tif":
        tif(mask, values)
    elif "_seg" in mask.name:
        Image.new("RGB", size[::-1], (250, 255, 0)).save(mask)
        strange = 25 * 256 + 255
    else:
        png(mask, values)
    (problem,) = problems(copy)
    assert str(mask) in problem
    assert str(strange) in problem


@each_layout
def test_mask_coded_in_colours_where_an_index_is_expected(maker, tmp_path):
    copy = maker(tmp_path)
    mask = copy.masks[0]
    if mask.suffix == ".mat":
        mat(mask, "Other", np.zeros((HEIGHT, WIDTH)))
        wanted = "has no variable"
    elif "_seg" in mask.name:
        png(mask, blocks(0))
        wanted = "one value per pixel (L); colours are expected"
    else:
        Image.new("RGB", (WIDTH, HEIGHT)).save(mask)
        wanted = "coded in colours (RGB); one index per pixel is expected"
    (problem,) = problems(copy)
    assert wanted in problem
    assert str(mask) in problem


@each_layout
def test_damaged_files(maker, tmp_path):
    copy = maker(tmp_path)
    copy.masks[0].write_bytes(b"\x00" * 600)
    (problem,) = problems(copy)
    assert str(copy.masks[0]) in problem
    assert "damaged" in problem


@each_layout
def test_cut_off_picture(maker, tmp_path):
    copy = maker(tmp_path)
    path, size = copy.pictures[0], next(iter(copy.targets.values())).shape
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, Image.registered_extensions()[path.suffix])
    path.write_bytes(stream.getvalue()[: int(stream.tell() * 0.75)])
    (problem,) = problems(copy)
    assert str(path) in problem


@each_layout
def test_empty_folders(maker, tmp_path):
    copy = maker(tmp_path)
    for path in copy.masks:
        path.unlink()
    for problem in problems(copy):
        assert any(said in problem for said in ("is empty", "holds no", "no mask for")), problem


@each_layout
def test_nothing_there(maker, tmp_path):
    name = maker(tmp_path / "copy").name
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WordmaskError, match=f"tried.*{empty.name}"):
        benchmark(name).open(empty)
    for wrong in (None, "", tmp_path / "absent", __file__):
        with pytest.raises(WordmaskError, match=f"^{name}"):
            benchmark(name).open(wrong)


@pytest.mark.parametrize(
    "key", [key for key in MAKERS if "folder" not in key and "converted" not in key]
)
def test_more_images_than_the_split_has(key, tmp_path):
    bench = benchmark(MAKERS[key](tmp_path).name)
    small = dataclasses.replace(bench, expected=1)
    with pytest.raises(WordmaskError, match="2 images, but the evaluation split has 1"):
        small.open(tmp_path)
    assert len(verify(small, tmp_path).problems) == 1


SPLITS = {
    "voc": "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    "context_png": "VOC2010/ImageSets/SegmentationContext/val.txt",
    "stuff10k": "imageLists/test.txt",
}


@pytest.mark.parametrize("key", SPLITS)
def test_wrong_split_files(key, tmp_path):
    copy = MAKERS[key](tmp_path)
    split = tmp_path / SPLITS[key]
    text(split, ["2012_000001", "2012_000002", "2012_000003", next(iter(copy.targets))])
    no_picture, no_mask = problems(copy)
    assert no_picture.startswith("no picture for 3 of 4 ids listed in ")
    assert no_mask.startswith("no mask for 3 of 4 ids listed in ")
    assert no_mask.endswith("is this the split of another data set, or the copy an excerpt?")
    for lines, message in (
        (["2007_000033  1", "2011_003271 -1"], "line 1 .* one id per line is expected"),
        (["2007_000033", "", "2007_000033"], "lists 2007_000033 in lines 1 and 3"),
        ([""], "is empty"),
    ):
        text(split, lines)
        with pytest.raises(WordmaskError, match=message):
            benchmark(copy.name).open(tmp_path)
    split.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WordmaskError, match="is not text"):
        benchmark(copy.name).open(tmp_path)
    split.unlink()
    if key != "context_png":  # there the split is known without the file
        with pytest.raises(WordmaskError, match="no split file"):
            benchmark(copy.name).open(tmp_path)


def test_a_mask_saved_as_jpeg_is_refused(tmp_path):
    copy = make_ade150(tmp_path)
    with open(copy.masks[0], "wb") as file:
        Image.fromarray(blocks(3).astype(np.uint8)).save(file, "JPEG")
    (problem,) = problems(copy)
    assert "is a JPEG, which changes the values" in problem


def test_converted_masks_where_originals_are_expected_are_told(tmp_path):
    copy = make_ade150(tmp_path)
    png(copy.masks[0], blocks(0, 149, 255))
    assert "holds the value 255" in problems(copy)[0]
    assert "detectron2" in problems(copy)[0]
    copy = make_coco(tmp_path)
    png(copy.masks[0], blocks(1, 11))
    assert "converted already" in problems(copy)[0]


@pytest.mark.parametrize("maker", [make_cityscapes, make_camvid])
def test_a_copy_that_was_scaled_down_is_no_copy(maker, tmp_path, monkeypatch):
    copy = maker(tmp_path)
    height, width = SIZES[copy.name]
    whole = dataclasses.replace(benchmark(copy.name), size=(height, width))
    monkeypatch.setitem(BENCHMARKS._known, copy.name, whole)
    photograph(copy.pictures[0], (height, width))
    png(copy.masks[0], blocks(8, size=(height, width)))
    (problem,) = problems(copy)
    small = f"{2 * WIDTH} x {HEIGHT}"
    assert f"is {small} pixels; all pictures of {copy.name} are {width} x {height}" in problem


def test_two_pictures_of_one_name(tmp_path):
    copy = make_folder(tmp_path)
    photograph(tmp_path / "images/a.jpg")
    assert "holds both a.jpg and a.webp" in problems(copy)[0]


def test_ade847_needs_the_index_of_its_own_release(tmp_path):
    copy = make_ade847(tmp_path)
    index = tmp_path / "ADE20K_2021_17_01/index_ade20k.pkl"
    index.write_bytes(pickle.dumps({"objectnames": ade_objects()[:2000]}))
    assert "has no object named" in problems(copy)[0]
    index.write_bytes(b"no pickle")
    assert "is not the index of ADE20K" in problems(copy)[0]
    index.unlink()
    assert "which names the objects" in problems(copy)[0]


class Shell:
    """What a hostile index would hold."""

    def __reduce__(self):
        return os.system, ("touch hostile",)


def test_an_index_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "index_ade20k.pkl"
    names = np.array(["wall", "sky"], dtype=object)
    path.write_bytes(pickle.dumps({"objectnames": names, "other": Shell()}))
    assert ade20k.read_object_names(path) == ["wall", "sky"]
    assert not Path("hostile").exists()


def test_excerpts_of_context_are_no_problem_but_half_pairs_are(tmp_path):
    copy = make_context(tmp_path)
    report = verify(benchmark("context60"), tmp_path)
    assert report.problems == ()
    photograph(copy.pictures[0].with_name("2008_000007.jpg"))  # of the split, without annotation
    photograph(copy.pictures[0].with_name("2008_000008.jpg"))  # of train
    (problem,) = problems(copy)
    assert problem == "no mask for 1 of 3 ids: 2008_000007"


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    make_context(tmp_path)
    write_instances(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    for name in ("context60", "coco_object_instances"):
        sample = benchmark(name).open(tmp_path)[0]
        with pytest.raises(WordmaskError, match=r'pip install "wordmask\[evaluate\]"'):
            sample.target()


# -- label tables, by hand -------------------------------------------------------------------------


def label(meaning: np.ndarray, value: int) -> int:
    return int(meaning[value])


def name_of(bench: str, meaning: np.ndarray, value: int) -> str:
    return benchmark(bench).names["plain"][label(meaning, value) - 1][0]


def test_voc_table():
    assert name_of("voc21", voc.VOC21, 1) == "aeroplane"
    assert name_of("voc21", voc.VOC21, 15) == "person"
    assert label(voc.VOC21, 0) == 0
    assert label(voc.VOC20, 0) == label(voc.VOC20, 255) == label(voc.VOC21, 255) == VOID
    assert label(voc.VOC21, 21) == INVALID


def test_context_table():
    names459 = benchmark("context459").names["plain"]
    names59 = benchmark("context59").names["plain"]
    for number, label59 in zip(context.NUMBERS_59, range(1, 60), strict=True):
        assert names459[number - 1] == names59[label59 - 1]
        assert label(context.CONTEXT60, number) == label(context.CONTEXT59, number) == label59
    assert name_of("context59", context.CONTEXT59, 2) == "aeroplane"
    assert name_of("context59", context.CONTEXT59, 284) == "person"
    assert name_of("context59", context.CONTEXT59, 427) == "tv monitor"
    assert name_of("context459", context.CONTEXT459, 431) == "unknown"
    assert label(context.CONTEXT60, 431) == 0
    assert label(context.CONTEXT59, 431) == VOID
    assert label(context.CONTEXT60, 0) == 0
    assert list(context.NUMBERS_59) == sorted(context.NUMBERS_59)


def test_context_split():
    ids = val_ids()
    assert len(ids) == len(set(ids)) == 5104
    assert ids[:3] == ("2008_000002", "2008_000003", "2008_000007")
    assert list(ids) == sorted(ids)


def test_coco_stuff_table():
    assert len(coco_stuff.IDS) == 171
    # Less 1, the ids that are never used: no value of a pixel map.
    for gap in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90):
        assert label(coco_stuff.STUFF, gap) == INVALID
        assert label(coco_stuff.STUFF_10K, gap + 1) == INVALID
    for value, name in (
        (0, "person"),
        (10, "fire hydrant"),
        (12, "stop sign"),
        (24, "giraffe"),
        (26, "backpack"),
        (89, "toothbrush"),
        (91, "banner"),
        (123, "grass"),
        (156, "sky-other"),
        (181, "wood"),
    ):
        assert name_of("coco_stuff", coco_stuff.STUFF, value) == name
        assert name_of("coco_stuff10k", coco_stuff.STUFF_10K, value + 1) == name
    assert label(coco_stuff.STUFF, 182) == INVALID
    assert label(coco_stuff.STUFF, 255) == label(coco_stuff.STUFF_10K, 0) == VOID


def test_coco_object_table():
    assert name_of("coco_object", coco_object.OBJECTS, 89) == "toothbrush"
    assert (
        name_of("coco_object", coco_object.OBJECTS, 61) == "chair"
    )  # id 62, the 57th of the things
    assert label(coco_object.OBJECTS, 91) == label(coco_object.OBJECTS, 181) == 0
    assert label(coco_object.OBJECTS, 255) == VOID
    assert sorted(set(coco_object.OBJECTS[:91].tolist()) - {INVALID}) == list(range(1, 81))


def test_coco27_table():
    # Values of pixel maps and coarse classes, both from 0, as in the released evaluation of STEGO.
    # fmt: off
    coarse = {
        0: 9, 1: 11, 8: 11, 9: 8, 14: 8, 15: 7, 24: 7, 26: 6, 32: 6, 33: 10, 42: 10, 43: 5, 50: 5,
        51: 2, 60: 2, 61: 3, 69: 3, 71: 0, 76: 0, 77: 1, 81: 1, 83: 4, 89: 4, 91: 17, 93: 22, 94:
        20, 97: 15, 98: 25, 99: 16, 100: 13, 101: 12, 105: 23, 110: 21, 111: 15, 118: 22, 119: 26,
        120: 14, 126: 24, 129: 15, 137: 25, 150: 20, 151: 17, 152: 14, 156: 23, 158: 21, 160: 15,
        161: 24, 162: 22, 164: 15, 165: 20, 169: 14, 170: 18, 176: 18, 177: 26, 178: 26, 179: 19,
        180: 19, 181: 24,
    }
    # fmt: on
    for value, wanted in coarse.items():
        assert label(coco27.Coco27.values, value) == wanted + 1, value
    assert set(coarse.values()) == set(range(27))
    assert sorted(coco27.coarse_classes()) == list(coco_stuff.IDS)


def test_cityscapes_table():
    # id -> train id of the official labels.py; what has none is void.
    train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    train_ids |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for number in range(34):
        wanted = train_ids[number] + 1 if number in train_ids else VOID
        assert label(cityscapes.CITY19, number) == wanted
    assert name_of("cityscapes", cityscapes.CITY19, 19) == "traffic light"
    assert name_of("cityscapes", cityscapes.CITY19, 31) == "train"
    assert name_of("cityscapes27", cityscapes.CITY27, 7) == "road"
    assert name_of("cityscapes27", cityscapes.CITY27, 9) == "parking"
    assert name_of("cityscapes27", cityscapes.CITY27, 29) == "caravan"
    assert name_of("cityscapes27", cityscapes.CITY27, 33) == "bicycle"
    assert label(cityscapes.CITY27, 6) == VOID


def test_sizes_of_benchmarks_with_one_size():
    assert SIZES == {
        "cityscapes": (1024, 2048),
        "cityscapes27": (1024, 2048),
        "camvid": (360, 480),
        "camvid_test": (360, 480),
    }


def test_ade_tables():
    assert name_of("ade150", ade20k.ADE150, 13) == "person"
    assert name_of("ade150", ade20k.ADE150, 150) == "flag"
    # Red 112, green 162 is 11 * 256 + 162 = 2978, the wall.
    colours = np.array([[[112, 162, 9], [0, 0, 0], [119, 162, 255]]], np.uint8)
    assert ade20k.object_numbers(colours).tolist() == [[2978, 0, 2978]]
    meaning = ade20k.full_table(ade_objects(), [n for (n,) in read_names("cliptrase", "ade847")], 0)
    assert name_of("ade847", meaning, 2978) == "wall"
    assert name_of("ade847", meaning, 1831) == "person"
    assert label(meaning, 0) == VOID
    assert sorted(set(meaning.tolist()) - {VOID}) == list(range(1, 848))
    assert label(ade20k.CONVERTED_847, 0) == 1
    assert label(ade20k.CONVERTED_847, 847) == INVALID


def packed_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of so many bits a pixel."""
    digits = np.unpackbits(values[..., None], axis=2)[..., -bits:]
    rows = np.packbits(digits.reshape(len(values), -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_masks_that_were_packed_keep_their_values(bits, palette, tmp_path):
    """Tools that shrink PNGs pack few values into few bits; grey ones are spread when decoded."""
    values = blocks(*range(2**bits)).astype(np.uint8)
    if palette:
        image = Image.fromarray(values)
        image.putpalette([0, 0, 0, 255, 0, 0] * 128)
        image.save(tmp_path / "mask.png", bits=bits)
    else:  # Pillow packs grey values from release 13 on only
        (tmp_path / "mask.png").write_bytes(packed_png(values, bits))
    np.testing.assert_array_equal(read_index(tmp_path / "mask.png"), values)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_look_up_is_the_table_pixel_by_pixel(values):
    meaning = table({value: value % 7 for value in range(0, 256, 2)}, void=(255,))
    array = np.array([values], np.uint8)
    if any(value % 2 and value != 255 for value in values):
        with pytest.raises(WordmaskError, match="holds the value"):
            look_up(array, meaning, "m")
    else:
        wanted = [[VOID if value == 255 else value % 7 for value in values]]
        assert look_up(array, meaning, "m").tolist() == wanted


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8, np.uint16, np.int64])
def test_look_up_refuses_what_is_beyond_the_table(dtype):
    meaning = table({0: 0, 1: 1}, size=2)
    assert look_up(np.array([[0, 1]], dtype), meaning, "m").tolist() == [[0, 1]]
    for value in (-1, 2, 100):
        if value >= np.iinfo(dtype).min:
            with pytest.raises(WordmaskError, match=rf"the mask m holds the value {value} \(at 1"):
                look_up(np.array([[0, value]], dtype), meaning, "m")


def test_look_up_refuses_what_is_no_map():
    with pytest.raises(WordmaskError, match="whole numbers"):
        look_up(np.zeros((2, 2, 3), np.uint8), table({0: 0}), "m")
    with pytest.raises(WordmaskError, match="whole numbers"):
        look_up(np.full((2, 2), 0.5), table({0: 0}), "m")


@pytest.mark.parametrize("mode", ["P", "L", "1", "I;16", "I"])
def test_index_masks_of_every_depth(mode, tmp_path):
    values = blocks(0, 1)
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0])
    elif mode == "1":
        image = Image.fromarray(values.astype(np.uint8) * 255).convert("1")
    elif mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    path = tmp_path / ("mask.tif" if mode == "I" else "mask.png")
    image.save(path)
    np.testing.assert_array_equal(read_index(path), values)
    target = IndexMask(path, table({0: 5, 1: 6}))()
    np.testing.assert_array_equal(target, values + 5)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_labels_turn_with_a_picture_that_exif_turns(orientation, suffix, tmp_path):
    """Labels drawn on the stored picture lie on the upright one; mirrored ones cannot be told."""
    copy = make_folder(tmp_path)
    stored = np.zeros((16, 24), np.uint8)
    stored[:8, :8] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    copy.pictures[0].unlink()
    picture = tmp_path / f"images/a.{suffix}"
    Image.fromarray(stored * 200).convert("RGB").save(picture, exif=exif)
    png(copy.masks[0], stored)
    assert picture_size(picture) == ((16, 24), orientation)
    target = benchmark("folder").open(tmp_path)[0].target()
    upright = read_image(picture)[..., 0] > 100
    assert target.shape == upright.shape
    if orientation in (1, 5, 6, 7, 8):
        np.testing.assert_array_equal(target == 2, upright)
    # A mask that was made on the upright picture stays as it is.
    png(copy.masks[0], upright.astype(np.uint8))
    np.testing.assert_array_equal(benchmark("folder").open(tmp_path)[0].target() == 2, upright)


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"folder"}))
def test_names_fit_the_classes_and_the_vocabulary(name):
    bench = benchmark(name)
    assert next(iter(bench.names)) == "plain"
    assert set(bench.names) <= set(SOURCES)
    assert set(bench.background_words) == set(bench.released_background_words) <= set(bench.names)
    for source, names in bench.names.items():
        assert len(names) == bench.classes, source
        words = Vocabulary([list(synonyms) for synonyms in names])
        assert len(words.queries) == sum(len(synonyms) for synonyms in names)
        if source in bench.background_words:
            background = Background.names(*bench.background_words[source])
            background.check(words)
            assert background.distractors == bench.background_words[source]
    assert all(len(synonyms) == 1 for synonyms in bench.names["plain"])


def test_every_source_of_the_papers_is_there():
    common = {"sclip", "clearclip", "proxyclip"}
    for name in ("voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "ade150"):
        assert set(benchmark(name).names) == set(SOURCES)
    assert set(benchmark("cityscapes").names) == {"plain", "cliper", *common}
    for name in ("ade847", "context459"):
        assert set(benchmark(name).names) == {"plain", "proxyclip", "cliptrase"}


def test_oddities_of_released_lists_are_kept_and_cleaned_where_they_are_read():
    objects = benchmark("coco_object")
    for source, count in (("sclip", 26), ("proxyclip", 17)):
        released, used = objects.released_background_words[source], objects.background_words[source]
        assert len(released) == count
        assert "bed" in released
        assert ("bed",) in objects.names[source]
        assert used == tuple(word for word in released if word != "bed")
    released = benchmark("voc21").released_background_words["cliptrase"]
    assert released.count("bed") == 2
    assert "beachhill" in released
    assert len(released) == 33
    assert len(benchmark("voc21").background_words["cliptrase"]) == 32


def test_released_names_word_for_word():
    voc21 = benchmark("voc21")
    assert voc21.names["cliper"][14] == ("person with clothes, people, human",)
    assert voc21.names["sclip"][14][:2] == ("person", "person in shirt")
    assert len(voc21.names["sclip"][14]) == 7
    assert voc21.names["sclip"][19][0] == "television monitor"
    assert voc21.names["clearclip"][3] == voc21.names["sclip"][3] == ("ship",)
    assert voc21.background_words["clearclip"] == ("background",)
    assert len(voc21.background_words["sclip"]) == 26
    assert len(voc21.background_words["cliper"]) == 25
    # CLIPer's words compete where no background is scored, those of the others do not.
    assert set(benchmark("voc20").background_words) == {"cliper"}
    assert len(benchmark("voc20").background_words["cliper"]) == 25
    assert len(benchmark("coco_object").background_words["cliper"]) == 23
    assert benchmark("ade847").names["proxyclip"][1] == ("building, edifice",)
    assert benchmark("cityscapes").names["sclip"][6] == ("trafficlight",)


SEPARATORS = {"sclip": ", ", "clearclip": ",", "proxyclip": "; ", "cliper": "\0"}
FILES = {
    "voc21": "cls_voc21",
    "coco_object": "cls_coco_object",
    "context60": "cls_context60",
    "context59": "cls_context59",
    "coco_stuff": "cls_coco_stuff",
    "cityscapes": "cls_city_scapes",
    "ade150": "cls_ade20k",
    "context459": "cls_context459",
    "ade847": "cls_ade20k847",
}


@pytest.mark.parametrize("source", ["sclip", "clearclip", "proxyclip"])
def test_lists_are_those_of_the_released_files(source, shared):
    for name, file in FILES.items():
        path = shared / "data/names" / source / f"{file}.txt"
        bench = benchmark(name)
        if source not in bench.names:
            assert not path.exists()
            continue
        lines = [line.strip().split(SEPARATORS[source]) for line in path.read_text().splitlines()]
        if bench.has_background:
            assert tuple(lines.pop(0)) == bench.released_background_words[source]
        assert tuple(map(tuple, lines)) == bench.names[source]


def test_the_split_of_context_is_the_shared_one(shared):
    assert (
        "\n".join(val_ids()) == (shared / "data/names/splits/context_val.txt").read_text().strip()
    )


def test_names_of_benchmarks_are_forgiving():
    assert benchmark("COCO-Object") is BENCHMARKS["coco_object"]
    assert benchmark(" voc21 ").name == "voc21"
    with pytest.raises(WordmaskError, match="unknown data set 'vco21'; did you mean voc21"):
        benchmark("vco21")


# -- real excerpts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images", "absent"),
    [
        ("voc21", 60, {"motorbike"}),
        ("voc20", 60, {"motorbike"}),
        ("coco_object", 100, {"cow", "giraffe", "toaster"}),
        ("camvid", 34, set()),
    ],
)
def test_real_excerpts(name, images, absent, shared):
    bench = benchmark(name)
    report = verify(bench, shared / "data")
    assert report.problems == ()
    assert report.images == images
    assert report.notes[0] == f"{images} of {bench.expected:,} images"
    samples = bench.open(shared / "data")
    occurring = set()
    for sample in samples:
        target = sample.target()
        assert target[target != VOID].max(initial=0) <= bench.classes
        assert bench.has_background or not (target == 0).any()
        occurring |= set(np.unique(target).tolist())
    names = [names[0] for names in bench.names["plain"]]
    assert absent <= {names[i - 1] for i in range(1, bench.classes + 1) if i not in occurring}


def test_real_labels_are_the_right_ones(shared):
    """What is to be seen in three photographs, by eye."""
    voc21 = {sample.id: sample.target() for sample in benchmark("voc21").open(shared / "data")[:3]}
    names = [names[0] for names in benchmark("voc21").names["plain"]]
    shown = {
        one: {names[i - 1] for i in np.unique(target) if 0 < i < VOID}
        for one, target in voc21.items()
    }
    assert shown == {
        "2007_000033": {"aeroplane"},
        "2007_000042": {"train"},
        "2007_000061": {"boat"},
    }
    names = [names[0] for names in benchmark("coco_object").names["plain"]]
    listed = (shared / "data/coco/object_classes.txt").read_text().splitlines()
    assert ["background", *names] == listed
    listed = (shared / "data/CamVid/classes.txt").read_text().splitlines()
    assert [names[0] for names in benchmark("camvid").names["plain"]] == listed


# -- the command -----------------------------------------------------------------------------------


def test_the_table_lists_every_benchmark(capsys, monkeypatch):
    for columns in ("80", "160"):
        monkeypatch.setenv("COLUMNS", columns)
        assert run(["datasets"]) == 0
        printed = capsys.readouterr().out
        for name, bench in BENCHMARKS.items():
            assert name in printed
            assert bench.title.split(",")[0] in printed
        assert max(map(len, printed.splitlines())) <= int(columns)
    assert run(["datasets", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(BENCHMARKS)
    assert listed["voc20"] == {
        "name": "voc20",
        "title": "PASCAL VOC 2012 val",
        "images": 1449,
        "classes": 20,
        "background": False,
        "ignore": 255,
        "reduce_zero": True,
        "names": list(SOURCES),
        "layout": BENCHMARKS["voc20"].layout,
        "note": BENCHMARKS["voc20"].note,
        "from": "wordmask",
    }


def test_show_prints_names_and_what_is_left_out_of_the_background(capsys, tmp_path):
    assert run(["datasets", "show", "coco-object"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "80 and the background" in printed
    assert "(without repeats and words that are a class: bed)" in printed
    assert run(["datasets", "show", "voc21", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["class_names"]["plain"][14] == ["person"]
    assert shown["background_words"]["cliptrase"].count("bed") == 2
    make_folder(tmp_path)
    assert run(["datasets", "show", "folder", "--root", str(tmp_path)]) == 0
    assert "cat | kitty; dog, big" in capsys.readouterr().out
    assert run(["datasets", "show", "folder"]) == 0
    assert run(["datasets", "show", "vco21"]) == 2


def test_check_prints_problems_and_ends_with_2(capsys, tmp_path):
    copy = make_ade150(tmp_path)
    command = ["datasets", "check", "ade150", "--root", str(tmp_path)]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "note: 2 of 2,000 images" in printed
    assert printed.splitlines()[-1] == "ade150: 2 images, no problem"
    assert run([*command, "--complete"]) == 2
    assert "problem: 2 of 2,000 images" in capsys.readouterr().out
    png(copy.masks[0], blocks(0, 151))
    assert run([*command, "--json"]) == 2
    plain = json.loads(capsys.readouterr().out)
    assert plain["images"] == 2
    assert "holds the value 151 (at 24 pixels); known are 0 to 150" in plain["problems"][0]
    assert run(["datasets", "check", "ade150"]) == 2
    assert "give --root DIR" in capsys.readouterr().err
    assert run(["datasets", "check", "toybox"]) == 0


def test_check_prints_the_first_problems_only(capsys, tmp_path):
    for number in range(25):
        photograph(tmp_path / f"images/validation/ADE_val_{number:08d}.jpg")
        png(tmp_path / f"annotations/validation/ADE_val_{number:08d}.png", blocks(200))
    command = ["datasets", "check", "ade150", "--root", str(tmp_path)]
    assert run(command) == 2
    printed = capsys.readouterr().out
    assert printed.count("problem: ") == 20
    assert "... and 5 more; --all prints them" in printed
    assert run([*command, "--all"]) == 2
    assert capsys.readouterr().out.count("problem: ") == 25


def test_importing_the_benchmarks_loads_no_torch():
    code = "import wordmask.datasets, sys; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
