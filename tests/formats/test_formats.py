"""Each format is read back by the other tool's own reader, and equals the labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordmask import Segmentation
from wordmask.colours import palette
from wordmask.errors import WordmaskError
from wordmask.formats import (
    DEFAULT,
    FORMATS,
    Item,
    Results,
    base,
    check_formats,
    check_names,
    convert,
    is_result,
    label_kind,
    render,
    split_formats,
    suffixes,
    write_folder_formats,
)
from wordmask.formats.folders import link_picture
from wordmask.formats.voc import colours, label_map
from wordmask.journal import Journal

NAMES = (
    "cat",
    "sofa: red, big",
    "#猫 кошка",
    "never found",
    "background",
    'a "quoted" & <b>',
    "قطة",
)
WORDS = [[NAMES[0], "kitten"], *([one] for one in NAMES[1:])]


def labels_of(classes=7):
    """Pictures by name: holes, parts of one pixel, corners that touch, all sizes of nothing."""
    rng = np.random.default_rng(5)
    rings = np.zeros((23, 31), int)
    for step in range(9):  # rings in rings: holes in holes
        rings[step : 23 - step, step : 31 - step] = 1 + step % 3
    rings[11, 15] = 0
    rings[2:5, 2:20:2] = 5
    noise = rng.integers(0, 4, (17, 13))
    checks = np.indices((6, 7)).sum(0) % 2
    return {
        "rings": rings,
        "sub/noise": np.where(noise == 3, classes, noise),
        "sub/checks": checks * classes,
        "sub/猫 photo": np.full((5, 4), 7),
        "one": np.full((1, 1), classes),
        "row": np.array([[0, 1, 1, 0, 2, 0, 1]]),
        "column": np.array([[3], [0], [3], [3]]),
        "nothing": np.zeros((4, 9), int),
    }


def segment(out, labels, names=NAMES, formats=("labels",)):
    """Write results as a run of many pictures does, and return them as it passes them on."""
    out.mkdir(parents=True, exist_ok=True)
    photos = out.parent / "photos"
    words = [[one] for one in names] if names is not NAMES else WORDS
    journal = Journal(out, {"classes": words})
    pairs = []
    for number, (name, values) in enumerate(labels.items()):
        photo = photos / f"{name}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 255, (*values.shape, 3), np.uint8)
        Image.fromarray(image).save(photo)
        scores = np.random.default_rng(number).random((len(names), 3, 4), np.float32)
        result = Segmentation(values, names, scores, {"method": "clip"}, image)
        for one in split_formats(formats)[0]:
            one.write(out, Item(name, str(photo), result, words, label_kind(formats)))
        journal.append(name, {"picture": str(photo)})
        pairs.append((name, str(photo)))
    return Results(out, words, sorted(pairs))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with every format of the odd pictures."""
    out = tmp_path_factory.mktemp("formats") / "masks"
    everything = check_formats(FORMATS)
    results = segment(out, labels_of(), formats=everything)
    write_folder_formats(out, everything, results)
    return out


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Formats of a whole folder with 300 classes."""
    out = tmp_path_factory.mktemp("many") / "masks"
    names = [f"class {i}" for i in range(300)]
    whole = [one.name for one in split_formats(FORMATS)[1]]
    write_folder_formats(out, whole, segment(out, labels_of(300), names))
    return out


# -- readers: {name: labels} of a folder of results -----------------------------------------------


def painted(size, masks):
    """Labels from (label, mask) pairs that must not overlap."""
    labels = np.zeros(size, int)
    for label, mask in masks:
        assert mask.shape == tuple(size)
        assert not labels[mask].any()
        labels[mask] = label
    return labels


def read_coco(file):
    tool = pytest.importorskip("pycocotools.coco").COCO(file)
    names = {one["id"]: one["name"] for one in tool.loadCats(tool.getCatIds())}
    found = {}
    for image in tool.loadImgs(tool.getImgIds()):
        entries = tool.loadAnns(tool.getAnnIds([image["id"]]))
        masks = [(one["category_id"], tool.annToMask(one).astype(bool)) for one in entries]
        for one, (_, mask) in zip(entries, masks, strict=True):
            rows, columns = np.nonzero(mask)
            corner = columns.min(), rows.min()
            size = np.ptp(columns) + 1, np.ptp(rows) + 1
            assert one["bbox"] == [*corner, *size]
            assert one["area"] == mask.sum()
        size = image["height"], image["width"]
        found[image["file_name"].removesuffix(".png")] = painted(size, masks)
    return found, names


def datumaro(folder, kind):
    """Masks by datumaro's importer of a kind, and the names of its classes."""
    tool = pytest.importorskip("datumaro")
    data = tool.Dataset.import_from(str(folder), kind)
    categories = data.categories()[tool.AnnotationType.label]
    return data, [one.name for one in categories.items]


def read_panoptic(out):
    data, names = datumaro(out / "coco_panoptic", "coco_panoptic")
    found = {}
    for item in data:
        masks = [(one.label + 1, one.image.astype(bool)) for one in item.annotations]
        found[item.id] = painted(item.media.size, masks)
    return found, dict(enumerate(names, start=1))


def read_masks(folder):
    if (folder / "labelmap.txt").read_text(encoding="utf-8").count("\n") > 256:
        return read_colours(folder)
    data, names = datumaro(folder, "voc_segmentation")
    found = {}
    for item in data:
        masks = [(one.label, one.image.astype(bool)) for one in item.annotations]
        found[item.id] = painted(masks[0][1].shape, masks)
    return found, dict(enumerate(names))


def read_colours(folder):
    """By the colours of labelmap.txt alone: datumaro 1.13 gives a picture of few colours labels of
    8 bits, and fails at those above 255."""
    lines = (folder / "labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]
    table = {line.split(":")[1]: i for i, line in enumerate(lines)}
    found = {}
    for name in next(folder.glob("ImageSets/*/*.txt")).read_text(encoding="utf-8").splitlines():
        with Image.open(folder / "SegmentationClass" / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB")).tolist()
        found[name] = np.array([[table[",".join(map(str, p))] for p in row] for row in pixels])
    return found, {i: line.split(":")[0] for i, line in enumerate(lines)}


def read_cvat(out):
    folder = out.parent / "cvat"
    with zipfile.ZipFile(out / "cvat.zip") as file:
        file.extractall(folder)
    return read_masks(folder)


def read_yolo(out):
    tool = pytest.importorskip("supervision")
    folder = out / "yolo"
    found, names = {}, []
    for name in labels_of():
        place = Path(name).parent
        data = tool.DetectionDataset.from_yolo(
            str(folder / "images" / place),
            str(folder / "labels" / place),
            str(folder / "data.yaml"),
            force_masks=True,
        )
        names = data.classes
        _, image, entries = next(one for one in data if Path(one[0]).stem == Path(name).name)
        masks = [] if entries.mask is None else zip(entries.class_id + 1, entries.mask, strict=True)
        found[name] = painted(image.shape[:2], masks)
    return found, dict(enumerate(names, start=1))


def read_label_studio(out):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    tasks = json.loads((out / "label_studio.json").read_text(encoding="utf-8"))
    config = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface(
        (out / "label_studio.xml").read_text(encoding="utf-8")
    )
    names = list(config.get_control("words").labels)
    found = {}
    for name, task in zip(sorted(labels_of()), tasks, strict=True):
        assert config.validate_prediction(task["predictions"][0])
        assert task["data"]["image"].startswith("/data/local-files/?d=")
        masks = []
        size = labels_of()[name].shape
        for one in task["predictions"][0]["result"]:
            assert (one["original_height"], one["original_width"]) == size
            alpha = brush.decode_rle(one["value"]["rle"]).reshape(*size, 4)[..., 3]
            assert set(np.unique(alpha)) <= {0, 255}
            masks.append((names.index(one["value"]["brushlabels"][0]) + 1, alpha > 0))
        found[name] = painted(size, masks)
    return found, dict(enumerate(names, start=1))


READERS = {
    "coco": lambda out: read_coco(out / "coco.json"),
    "coco-polygons": lambda out: read_coco(out / "coco_polygons.json"),
    "coco-components": lambda out: read_coco(out / "coco_components.json"),
    "coco-panoptic": read_panoptic,
    "yolo-seg": read_yolo,
    "voc": lambda out: read_masks(out / "voc"),
    "cvat": read_cvat,
    "label-studio": read_label_studio,
}


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, labels in wanted.items():
        np.testing.assert_array_equal(found[name], labels, err_msg=name)


def test_each_format_of_a_folder_has_a_reader_here():
    assert set(READERS) == {one.name for one in split_formats(FORMATS)[1]}


@pytest.mark.parametrize("name", READERS)
def test_formats_of_a_folder_are_read_back(made, name):
    found, names = READERS[name](made)
    same(found, labels_of())
    listed = [names[i] for i in range(1, len(NAMES) + 1)]
    if name in ("voc", "cvat"):
        assert names[0] == "background_"  # since a class has that name
        assert listed[1:3] == ["sofa： red, big", "＃猫 кошка"]
        listed[1:3] = NAMES[1:3]
    assert tuple(listed) == NAMES


@pytest.mark.parametrize("name", READERS)
def test_formats_of_a_folder_hold_more_than_255_classes(many, name):
    found, names = READERS[name](many)
    same(found, labels_of(300))
    assert names[300] == "class 299"


# -- formats of one picture ------------------------------------------------------------------------


def test_label_pictures_hold_the_labels(made, tmp_path):
    for name, labels in labels_of().items():
        with Image.open(made / f"{name}_labels.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), labels)
        with Image.open(made / f"{name}_labels16.png") as image:
            assert image.mode == "I;16"
            np.testing.assert_array_equal(np.asarray(image), labels)
    torch = pytest.importorskip("torch")
    for classes in (2, 300):
        result = Segmentation(np.array([[0, classes]]), [str(i) for i in range(classes)])
        tensor = torch.from_numpy(result.labels)
        assert tensor.tolist() == [[0, classes]] == np.asarray(result).tolist()
        assert np.asarray(result.label_image()).tolist() == [[0, classes]]
        assert torch.from_numpy(result.masks()).sum((1, 2)).tolist() == [0] * (classes - 1) + [1]


def test_masks_and_cutouts_of_words_that_were_found(made):
    for name, labels in labels_of().items():
        photo = np.asarray(Image.open(made.parent / "photos" / f"{name}.png"))
        masks, cuts = (
            {
                one["label"]: made / f"{name}_{kind}" / one["file"]
                for one in json.loads(
                    (made / f"{name}_{kind}" / "words.json").read_text(encoding="utf-8")
                )
                if one["name"] == NAMES[one["label"] - 1]
            }
            for kind in ("masks", "cutouts")
        )
        assert set(masks) == set(cuts) == set(np.unique(labels)) - {0}
        for label, file in masks.items():
            np.testing.assert_array_equal(np.asarray(Image.open(file)), labels == label)
            cut = np.asarray(Image.open(cuts[label]))
            np.testing.assert_array_equal(cut[..., 3], 255 * (labels == label))
            np.testing.assert_array_equal(cut[..., :3], photo)
    assert (made / "sub" / "猫 photo_masks" / "7_قطة.png").is_file()


def test_polygons_are_geojson_of_the_masks(made):
    shapely = pytest.importorskip("shapely")
    for name, labels in labels_of().items():
        data = json.loads((made / f"{name}_polygons.geojson").read_text(encoding="utf-8"))
        y, x = np.indices(labels.shape) + 0.5
        again = np.zeros_like(labels)
        for feature in data["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            label = feature["properties"]["label"]
            assert feature["properties"]["name"] == NAMES[label - 1]
            assert shape.area == (labels == label).sum()
            assert feature["properties"]["share"] == shape.area / labels.size
            parts = [shapely.contains_xy(one, x, y) for one in shape.geoms]
            again[np.any(parts, axis=0)] = label
        np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize("kind", ["rle", "components"])
def test_run_lengths_of_one_picture(made, kind):
    tool = pytest.importorskip("pycocotools.mask")
    for name, labels in labels_of().items():
        data = json.loads((made / f"{name}_{kind}.json").read_text(encoding="utf-8"))
        masks = [(one["label"], tool.decode(one["segmentation"]).astype(bool)) for one in data]
        np.testing.assert_array_equal(painted(labels.shape, masks), labels)
        assert all(NAMES[one["label"] - 1] == one["name"] for one in data)
        assert all(0 < one["score"] < 1 for one in data)
        assert len(data) >= len({one["label"] for one in data})
        if kind == "rle":
            assert len(data) == len(set(np.unique(labels)) - {0})


def test_brush_strokes_of_one_picture_are_those_of_the_folder(made):
    tasks = json.loads((made / "label_studio.json").read_text(encoding="utf-8"))
    for name, task in zip(sorted(labels_of()), tasks, strict=True):
        assert json.loads((made / f"{name}_brush.json").read_text(encoding="utf-8")) == [task]


def test_the_json_follows_its_schema_and_names_its_label_file(made):
    schema = json.loads(
        (Path(base.__file__).parent / "segmentation.schema.json").read_text(encoding="utf-8")
    )
    for name, labels in labels_of().items():
        data = json.loads((made / f"{name}.json").read_text(encoding="utf-8"))
        assert data["schema"] == schema["title"] == schema["properties"]["schema"]["const"]
        assert set(data) <= set(schema["properties"])
        label_file = made / Path(name).parent / data["labels"]
        np.testing.assert_array_equal(np.asarray(Image.open(label_file)), labels)
        tool = pytest.importorskip("jsonschema")
        tool.Draft202012Validator.check_schema(schema)
        tool.validate(data, schema)
    tool.validate(json.loads(Segmentation(np.eye(2, dtype=int), ["a"]).to_json()), schema)
    with pytest.raises(tool.ValidationError):
        tool.validate(data | {"height": 0}, schema)
    assert data["words"] == WORDS
    result = Segmentation(np.eye(2, dtype=int), ["a"])
    assert json.loads(FORMATS["json"].encode(Item("x", "", result)))["labels"] is None
    assert json.loads(FORMATS["json"].encode(Item("y/x", "", result, None, "labels16"))) | {
        "labels": "x_labels16.png",
        "picture": None,
    } == json.loads(FORMATS["json"].encode(Item("y/x", "", result, None, "labels16")))


def test_scores_and_overlay_must_have_been_kept():
    plain = Item("x", "x.png", Segmentation(np.eye(2, dtype=int), ["a"]))
    for name, said in (("scores", "scores were not kept"), ("overlay", "picture was not kept")):
        with pytest.raises(WordmaskError, match=said):
            FORMATS[name].encode(plain)
    with pytest.raises(WordmaskError, match="give it as cutout"):
        plain.result.cutout("a")


# -- methods of a result ---------------------------------------------------------------------------


@pytest.mark.parametrize("components", [False, True])
def test_detections_of_supervision(components):
    tool = pytest.importorskip("supervision")
    for labels in labels_of().values():
        result = Segmentation(labels, NAMES)
        found = result.detections(components)
        assert isinstance(found, tool.Detections)
        masks = list(zip(found.class_id + 1, found.mask, strict=True))
        np.testing.assert_array_equal(painted(labels.shape, masks), labels)
        assert [NAMES[i] for i in found.class_id] == found.data["class_name"].tolist()
        boxes = tool.mask_to_xyxy(found.mask)  # it names the last pixel, we its far edge
        np.testing.assert_array_equal(found.xyxy, np.add(boxes, [0, 0, 1, 1]))
        assert found.confidence is None
        assert len(found) == len(result.regions(components))
    assert len(Segmentation(np.zeros((2, 2), int), ["a"]).detections()) == 0
    scored = Segmentation(np.eye(2, dtype=int), ["a"], np.full((1, 1, 1), 0.25, np.float32))
    assert scored.detections().confidence.tolist() == [0.25]


@pytest.mark.parametrize("polygons", [False, True])
def test_to_coco_is_a_data_set_of_one_picture(tmp_path, polygons):
    tool = pytest.importorskip("pycocotools.coco")
    for labels in labels_of().values():
        result = Segmentation(labels, NAMES)
        file = tmp_path / "one.json"
        file.write_text(json.dumps(result.to_coco("one.png", polygons)), encoding="utf-8")
        data = tool.COCO(file)
        masks = [(e["category_id"], data.annToMask(e).astype(bool)) for e in data.anns.values()]
        np.testing.assert_array_equal(painted(labels.shape, masks), labels)
        assert data.imgs[1]["file_name"] == "one.png"
        assert [one["name"] for one in data.cats.values()] == list(NAMES)


def test_polygons_of_a_word():
    labels = labels_of()["rings"]
    result = Segmentation(labels, NAMES)
    outlines = result.polygons("cat")
    assert len(outlines[0].holes) == 1
    assert outlines[0].exterior.tolist() == [[0, 0], [31, 0], [31, 23], [0, 23]]
    assert result.polygons("never found") == []


# -- files -----------------------------------------------------------------------------------------


def test_formats_come_once_and_in_order():
    assert check_formats(["json", "labels", "json"]) == ("labels", "json")
    assert check_formats("overlay") == ("overlay",)
    assert check_formats(["coco"]) == ("labels", "coco")  # which is made from them
    assert check_formats(["coco", "labels16"]) == ("labels16", "coco")
    assert set(DEFAULT) < set(FORMATS)
    with pytest.raises(WordmaskError, match="unknown format 'cocoa'; did you mean coco"):
        check_formats(["cocoa"])


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    for name, package, extra in (
        ("coco", "pycocotools", "formats"),
        ("label-studio", "label_studio_sdk", "label-studio"),
    ):
        with pytest.raises(WordmaskError) as error:
            check_formats([name])
        assert str(error.value) == (
            f'the format {name} needs {package}; install it with pip install "wordmask[{extra}]"'
        )
    assert check_formats(["voc", "yolo-seg", "cvat", "coco-panoptic", "coco-polygons", "masks"])


def test_formats_without_torch_or_optional_packages():
    optional = "{'torch', 'scipy', 'cv2', 'pycocotools'}"
    code = f"import sys, wordmask.formats; print({optional} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_convert_makes_the_same_files_elsewhere(made, tmp_path):
    whole = [one.name for one in split_formats(FORMATS)[1]]
    wanted = [*whole, "masks", "cutouts", "labels16", "polygons"]
    paths = convert(made, wanted, tmp_path / "again")
    assert len(paths) == len(whole) + 1
    here = {p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*")}
    assert not any(p.name.endswith("_labels.png") for p in here)
    for path in here:
        if (
            path.is_relative_to("yolo/images")
            or path.is_relative_to("voc/JPEGImages")
            or "images" in path.parts
        ):
            assert (tmp_path / "again" / path).samefile(made / path) or (made / path).is_dir()
        elif (made / path).is_file():
            assert (tmp_path / "again" / path).read_bytes() == (made / path).read_bytes(), path
    same(read_coco(tmp_path / "again" / "coco.json")[0], labels_of())
    for name in ("json", "scores"):
        with pytest.raises(WordmaskError, match=f"{name} cannot be made from labels"):
            convert(made, [name])
    with pytest.raises(WordmaskError, match="holds no results"):
        convert(tmp_path, "coco")


def test_a_missing_label_file_is_named(tmp_path):
    results = segment(tmp_path / "o", labels_of())
    (tmp_path / "o" / "row_labels.png").unlink()
    with pytest.raises(WordmaskError, match=r"row_labels\.png is missing"):
        write_folder_formats(tmp_path / "o", ["coco", "voc"], results)
    assert not (tmp_path / "o" / "coco.json").exists()
    assert not list((tmp_path / "o").glob(".*.part"))


def test_folders_are_replaced_whole_and_never_those_of_others(tmp_path, monkeypatch):
    results = segment(tmp_path / "o", labels_of())
    yolo = tmp_path / "o" / "yolo"
    write_folder_formats(tmp_path / "o", ["yolo-seg"], results)
    before = {path: path.lstat().st_mtime_ns for path in yolo.rglob("*")}
    assert (yolo / "images" / "row.png").samefile(tmp_path / "photos" / "row.png")
    broken = Results(results.out, results.words, [*results.pictures, ("gone", "gone.png")])
    with pytest.raises(WordmaskError, match="gone_labels"):
        write_folder_formats(tmp_path / "o", ["yolo-seg"], broken)
    assert {path: path.lstat().st_mtime_ns for path in yolo.rglob("*")} == before
    fewer = Results(results.out, results.words, results.pictures[:2])
    (yolo.parent / ".yolo.new.part").mkdir()  # of a run that was killed
    (yolo.parent / ".yolo.new.part" / "half").touch()
    write_folder_formats(tmp_path / "o", ["yolo-seg"], fewer)
    assert len(list((yolo / "labels").rglob("*.txt"))) == 2
    assert not (yolo / "half").exists()
    (tmp_path / "o" / "voc").mkdir()
    (tmp_path / "o" / "voc" / "mine.txt").touch()
    with pytest.raises(WordmaskError, match="voc exists and is not from wordmask"):
        write_folder_formats(tmp_path / "o", ["voc"], results)
    assert (tmp_path / "o" / "voc" / "mine.txt").is_file()


def test_pictures_are_linked_or_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    photo = tmp_path / "a.png"
    photo.write_bytes(b"photo")
    result = Segmentation(np.eye(2, dtype=int), ["a"])
    for number, name in enumerate(("", "link", "symlink")):
        if name:
            monkeypatch.setattr(os, name, refuse)
        link_picture(Item("s/a", str(photo), result), tmp_path / str(number))
        link = tmp_path / str(number) / "s" / "a.png"
        assert link.read_bytes() == b"photo"
        assert (link.samefile(photo), link.is_symlink()) == (
            (True, True, False)[number],
            number == 1,
        )
    link_picture(Item("a", "shard.tar/a.png", result), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_masks_of_an_earlier_run_are_removed(tmp_path):
    first = Item("x", "", Segmentation(np.array([[1, 2]]), ["a", "b"]))
    assert FORMATS["masks"].write(tmp_path, first) == tmp_path / "x_masks" / "words.json"
    FORMATS["masks"].write(tmp_path, Item("x", "", Segmentation(np.array([[2, 2]]), ["a", "b"])))
    assert {one.name for one in (tmp_path / "x_masks").iterdir()} == {"2_b.png", "words.json"}
    nothing = Item("y", "", Segmentation(np.array([[0]]), ["a"]))
    assert suffixes(["labels", "masks"]) == ("_labels.png", "_masks/words.json")
    assert set(render(nothing, ["masks", "labels", "coco"])) == set(suffixes(["masks", "labels"]))


def test_only_one_picture_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """A set of any number of pictures is written while they are read."""
    alive, most = 0, 0

    class Counted(Segmentation):
        def __post_init__(self):
            nonlocal alive, most
            super().__post_init__()
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    monkeypatch.setattr("wordmask.formats.results.Segmentation", Counted)
    results = segment(tmp_path / "o", {str(i): np.eye(3, dtype=int) for i in range(30)})
    made = write_folder_formats(
        tmp_path / "o", [one.name for one in split_formats(FORMATS)[1]], results
    )
    assert len(made) == 8
    assert most <= 2


def test_names_of_pictures_that_get_in_the_way(tmp_path):
    check_names(["labels", "coco"], ["yolo/a", "b"])
    for formats, name in ((["coco"], "coco"), (["yolo-seg"], "yolo/a")):
        with pytest.raises(WordmaskError, match="make that format with wordmask convert"):
            check_names(formats, [name])


def test_results_are_told_from_pictures():
    for path in ("a_labels.png", "s/a_overlay.jpg", "a_masks/1_cat.png", "s/a_cutouts/2_dog.png",
                 "yolo/images/a.png", "voc/JPEGImages/a.png", "a_labels16.png",
                 "coco_panoptic/annotations/panoptic_all/a.png"):  # fmt: skip
        assert is_result(path), path
    for path in ("a.png", "s/a.jpg", "masks/a.png", "s/yolo/a.png", "labels.png"):
        assert not is_result(path), path


def test_file_names_are_those_of_the_user():
    result = Segmentation(np.eye(2, dtype=int), ["a"])
    for name, picture, wanted, linked in (
        ("a", "/p/a.jpg", "a.jpg", "a.jpg"),
        ("s/a", "/p/s/a.JPG", "s/a.JPG", "s/a.JPG"),
        ("a.jpg", "/p/a.jpg", "a.jpg", "a.jpg.jpg"),  # beside a.png
        ("a", "", "a", "a"),
    ):
        item = Item(name, picture, result)
        assert (item.file_name, item.linked) == (wanted, linked)


def test_colours_differ_for_any_number_of_classes():
    for count in (1, 254, 600, 65_535):
        assert len(np.unique(colours(count), axis=0)) == count + 1
    assert colours(65_535)[0].tolist() == [0, 0, 0]
    lines = label_map(["a:b", "a：b"]).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["background", "a：b", "a：b_"]
    shown = [[int(x) for x in line.split(":")[1].split(",")] for line in lines]
    assert shown == palette(2).tolist()
