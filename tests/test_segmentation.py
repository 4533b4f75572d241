from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordmask import drawing
from wordmask.errors import WordmaskError
from wordmask.segmentation import MOST_DRAWN, Segmentation, Segmentations


def example(**more: object) -> Segmentation:
    """2 x 4 pixels: three of the cat, one of the sofa, four unlabelled, no dog."""
    labels = np.array([[1, 1, 0, 0], [1, 3, 0, 0]], np.uint8)
    return Segmentation(labels, ("cat", "dog", "sofa"), **more)


def with_classes(n: int) -> Segmentation:
    dtype = np.uint8 if n <= 255 else np.uint16
    labels = np.arange(20 * 20).reshape(20, 20) % (n + 1)
    return Segmentation(labels.astype(dtype), tuple(f"class {i}" for i in range(n)))


# --- what is in there


def test_mask_by_name_and_by_label() -> None:
    result = example()
    expected = np.array([[True, True, False, False], [True, False, False, False]])
    np.testing.assert_array_equal(result.mask("cat"), expected)
    np.testing.assert_array_equal(result.mask(1), expected)
    np.testing.assert_array_equal(result.mask(np.uint8(1)), expected)
    assert result.mask("cat").dtype == bool
    assert not result.mask("dog").any()
    np.testing.assert_array_equal(result.mask("unlabelled"), result.labels == 0)
    np.testing.assert_array_equal(result.mask(0), result.labels == 0)


def test_masks_of_all_classes_cover_each_pixel_once() -> None:
    result = with_classes(7)
    masks = np.stack([result.mask(name) for name in (*result.names, "unlabelled")])
    assert (masks.sum(axis=0) == 1).all()


def test_shares_worked_by_hand() -> None:
    shares = example().shares()
    assert shares == {"cat": 3 / 8, "dog": 0.0, "sofa": 1 / 8, "unlabelled": 4 / 8}
    assert list(shares) == ["cat", "dog", "sofa", "unlabelled"]
    assert all(type(share) is float for share in shares.values())


@pytest.mark.parametrize("n", [1, 3, 255, 300])
def test_shares_sum_to_one(n: int) -> None:
    assert sum(with_classes(n).shares().values()) == pytest.approx(1, abs=1e-12)


def test_a_class_called_unlabelled_shares_that_entry() -> None:
    result = Segmentation(np.array([[0, 1, 2, 2]], np.uint8), ("unlabelled", "cat"))
    assert result.shares() == {"unlabelled": 0.5, "cat": 0.5}
    np.testing.assert_array_equal(result.mask("unlabelled"), [[False, True, False, False]])


def test_found_lists_what_occurs_most_pixels_first() -> None:
    assert example().found == ("cat", "sofa")
    labels = np.array([[2, 2, 2, 1, 3, 3, 3]], np.uint8)
    assert Segmentation(labels, ["a", "b", "c", "d"]).found == ("b", "c", "a")
    assert Segmentation(np.zeros((2, 2), np.uint8), ["a"]).found == ()


def test_repr_is_short_and_says_what_was_found() -> None:
    assert repr(example()) == (
        "Segmentation(4x2, 2 of 3 words found: cat 38 %, sofa 12 %, unlabelled 50 %)"
    )
    assert len(repr(with_classes(300))) < 200
    assert "295 more" in repr(with_classes(300))


def test_results_are_compared_by_identity() -> None:
    one, other = example(), example()
    assert one == one
    assert one != other


def test_names_become_a_tuple_and_labels_the_smallest_type() -> None:
    few = Segmentation(np.ones((2, 2), np.uint16), ["cat", "dog"])
    assert few.names == ("cat", "dog")
    assert few.labels.dtype == np.uint8
    assert with_classes(255).labels.dtype == np.uint8
    assert with_classes(256).labels.dtype == np.uint16
    labels = np.ones((2, 2), np.uint8)
    assert Segmentation(labels, ["cat"]).labels is labels  # no copy where none is needed


# --- label pictures


@pytest.mark.parametrize(("n", "mode"), [(1, "P"), (3, "P"), (255, "P"), (300, "I;16")])
def test_label_png_gives_back_the_labels(tmp_path: Path, n: int, mode: str) -> None:
    result = with_classes(n)
    assert result.labels.max() == n
    assert result.label_image().mode == mode
    result.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.format == "PNG"
        labels = np.asarray(image)
        np.testing.assert_array_equal(labels, result.labels)
        if mode == "P":
            np.testing.assert_array_equal(
                np.asarray(image.convert("RGB")), drawing.palette(n)[result.labels]
            )
    assert os.listdir(tmp_path) == ["labels.png"]


def test_failed_save_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.png").write_bytes(b"earlier")

    def fail(self: Image.Image, file: io.BufferedWriter, **_: object) -> None:
        file.write(b"half")
        raise RuntimeError("the power went")

    monkeypatch.setattr(Image.Image, "save", fail)
    for name in ("labels.png", "new.png"):
        with pytest.raises(RuntimeError, match="the power went"):
            example().save(tmp_path / name)
    assert os.listdir(tmp_path) == ["labels.png"]
    assert (tmp_path / "labels.png").read_bytes() == b"earlier"


@pytest.mark.parametrize("name", ["labels.jpg", "labels", "png"])
def test_save_refuses_other_formats(tmp_path: Path, name: str) -> None:
    with pytest.raises(WordmaskError, match=r"labels are saved as PNG, got .*\.png"):
        example().save(tmp_path / name)
    assert os.listdir(tmp_path) == []


# --- pictures


def test_overlay_draws_the_kept_picture_or_the_given_one() -> None:
    image = np.full((2, 4, 3), 90, np.uint8)
    kept = np.asarray(example(image=image).overlay())
    given = np.asarray(example().overlay(image))
    np.testing.assert_array_equal(kept, given)
    plain = example(image=image).overlay(legend=False)
    assert plain.size == (4, 2)
    brighter = example(image=image).overlay(image + 60, legend=False)
    assert np.asarray(brighter).mean() > np.asarray(plain).mean()


def test_overlay_reads_a_file_and_turns_it_upright(tmp_path: Path) -> None:
    upright = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown, turn by 90 degrees clockwise
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(example(image=upright).overlay())
    np.testing.assert_array_equal(np.asarray(example().overlay(tmp_path / "a.png")), expected)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(example().overlay(image)), expected)


def test_overlay_without_a_picture_says_so() -> None:
    with pytest.raises(WordmaskError, match=r"the picture was not kept; give it as overlay"):
        example().overlay()


def test_heat_map_shows_where_the_scores_of_a_class_are_high() -> None:
    scores = np.zeros((3, 2, 4), np.float32)
    scores[0, :, :2] = 1  # the cat, left
    scores[2, :, 2:] = 0.5  # the sofa, right, less
    result = example(scores=scores)
    cat = np.asarray(result.heat_map("cat").convert("L")).astype(int)
    sofa = np.asarray(result.heat_map("sofa").convert("L")).astype(int)
    assert cat.shape == (2, 4)
    assert cat[:, 0].min() > cat[:, 3].max() + 100
    assert sofa[:, 3].min() > sofa[:, 0].max()
    assert sofa.max() < cat.max()  # one range for all classes
    assert (np.asarray(result.heat_map("dog")) == np.asarray(result.heat_map("cat"))[0, 3]).all()
    scores[1] = -1
    lifted = np.asarray(result.heat_map("sofa").convert("L")).astype(int)
    assert lifted.min() > sofa.min()
    scores[1] = 0
    own = np.asarray(result.heat_map("sofa", low=0, high=0.5).convert("L")).astype(int)
    assert own.max() == cat.max()
    np.testing.assert_array_equal(
        np.asarray(result.heat_map(3)), np.asarray(result.heat_map("sofa"))
    )


def test_heat_map_is_drawn_over_the_kept_picture() -> None:
    scores = np.random.default_rng(0).random((3, 2, 4))
    image = np.full((2, 4, 3), 250, np.uint8)
    over = np.asarray(example(scores=scores, image=image).heat_map("dog"))
    alone = np.asarray(example(scores=scores).heat_map("dog"))
    assert over.mean() > alone.mean()


def test_heat_map_needs_scores_and_a_class() -> None:
    with pytest.raises(WordmaskError, match="the scores were not kept"):
        example().heat_map("cat")
    scored = example(scores=np.zeros((3, 2, 4), np.float32))
    with pytest.raises(WordmaskError, match="unknown class 'cart'"):
        scored.heat_map("cart")
    with pytest.raises(WordmaskError, match="give the name of a class"):
        scored.heat_map("unlabelled")


@pytest.mark.parametrize("image", [None, np.full((2, 4, 3), 90, np.uint8)])
def test_a_notebook_gets_a_png(image: np.ndarray | None) -> None:
    shown = Image.open(io.BytesIO(example(image=image)._repr_png_()))
    assert shown.format == "PNG"
    assert shown.width > 60  # with its legend


def test_a_notebook_gets_no_huge_picture() -> None:
    result = Segmentation(np.ones((100, 4000), np.uint8), ["cat"])
    assert Image.open(io.BytesIO(result._repr_png_())).width <= 1600


# --- summary


def test_summary_worked_by_hand() -> None:
    assert example(provenance={"method": "clip"}).summary() == {
        "schema": "wordmask.segmentation/1",
        "height": 2,
        "width": 4,
        "classes": [
            {"label": 1, "name": "cat", "pixels": 3, "share": 3 / 8},
            {"label": 2, "name": "dog", "pixels": 0, "share": 0.0},
            {"label": 3, "name": "sofa", "pixels": 1, "share": 1 / 8},
        ],
        "unlabelled": {"pixels": 4, "share": 4 / 8},
        "provenance": {"method": "clip"},
    }


def test_json_is_the_summary() -> None:
    result = Segmentation(
        np.array([[1, 2]], np.uint8), ("\u732b", 'a "dog"'), provenance={"options": {"beta": None}}
    )
    assert json.loads(result.to_json()) == result.summary()
    assert "\u732b" in result.to_json()


def test_json_takes_numpy_numbers_and_paths() -> None:
    provenance = {"threshold": np.float32(0.5), "steps": np.int64(3), "model": Path("weights")}
    text = example(provenance=provenance).to_json()
    assert json.loads(text)["provenance"] == {"threshold": 0.5, "steps": 3, "model": "weights"}


@pytest.mark.parametrize("provenance", [{"threshold": float("nan")}, {("a", "b"): 1}])
def test_json_refuses_what_json_cannot_hold(provenance: dict[str, object]) -> None:
    with pytest.raises(WordmaskError, match="provenance cannot be written as JSON"):
        example(provenance=provenance).to_json()


# --- bad input


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2, 1), np.uint8), r"array \(H, W\) .*shape \(2, 2, 1\)"),
        (np.zeros((0, 3), np.uint8), "with pixels in it"),
        (np.zeros((2, 2), np.float32), "labels must be integers, got float32"),
        (np.full((2, 2), 3, np.uint8), "0 to 2, the number of names, got 3 to 3"),
        (np.full((2, 2), -1, np.int64), "got -1 to -1"),
        ([[0, 1]], "array"),
    ],
)
def test_labels_without_a_name_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(WordmaskError, match=message) as error:
        Segmentation(labels, ("cat", "dog"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "1 to 65535 names, got 0"),
        ([str(i) for i in range(65_536)], "got 65536"),
        (["cat", "dog", "cat"], "'cat' more than once"),
        ("cat", "got the string 'cat'"),
    ],
)
def test_impossible_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(WordmaskError, match=message) as error:
        Segmentation(np.zeros((2, 2), np.uint8), names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "scores", [np.zeros((2, 2, 4)), np.zeros((3, 8)), [[[0.0]], [[0.0]], [[0.0]]]]
)
def test_scores_of_another_shape_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(WordmaskError, match=r"scores must be an array \(3, h, w\)"):
        example(scores=scores)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 2, 3), np.uint8), np.zeros((2, 4, 3)), np.zeros((2, 4), np.uint8), "a.jpg"],
)
def test_an_image_of_another_size_or_type_is_refused(image: np.ndarray) -> None:
    with pytest.raises(WordmaskError, match=r"image must be a uint8 array \(2, 4, 3\)"):
        example(image=image)


def test_an_unknown_class_gets_the_nearest_names() -> None:
    with pytest.raises(WordmaskError, match=r"unknown class 'sofas'; did you mean sofa\?"):
        example().mask("sofas")
    for label in (4, -1, 1.0, None):
        with pytest.raises(WordmaskError, match="a class is a name or a label from 0 to 3"):
            example().mask(label)


# --- several


def test_a_grid_holds_each_result_and_one_legend() -> None:
    image = np.full((2, 4, 3), 90, np.uint8)
    dog = Segmentation(np.full((3, 3), 2, np.uint8), ("cat", "dog", "sofa"))
    one, three = Segmentations([example()]), Segmentations([example(), example(image=image), dog])
    assert three.grid().width > 2 * one.grid().width
    assert three.grid(columns=1).height > 2.5 * one.grid().height
    shown = {tuple(x) for x in np.asarray(three.grid()).reshape(-1, 3).tolist()}
    for label in (1, 2, 3):  # the colours of the legend, the dog's from the last alone
        assert tuple(drawing.palette(3)[label].tolist()) in shown
    assert three.copy() == list(three)
    assert type(three[1:]) is Segmentations
    assert three[0] is next(iter(three))


def test_a_grid_of_many_classes_has_numbers() -> None:
    names = tuple(f"class {i}" for i in range(1, 13))
    for count, numbered in ((2, False), (12, True)):
        labels = [np.full((30, 30), i, np.uint8) for i in range(1, count + 1)]
        grid = np.asarray(Segmentations(Segmentation(one, names) for one in labels).grid(1))
        row, column = np.argwhere((grid == drawing.palette(12)[2]).all(axis=2))[0]
        panel = grid[row : row + 250, column : column + 250]
        assert (panel.min(axis=2) > 200).any() == numbered  # digits are white


def test_a_grid_of_very_many_is_bounded_and_says_so() -> None:
    many = Segmentations([example()] * (MOST_DRAWN + 1))
    assert many.grid().height > Segmentations(many[:-1]).grid().height  # a line above
    assert many.grid().height < 1.1 * Segmentations(many[:-1]).grid().height
    assert Segmentations()._repr_png_() is None
    with pytest.raises(WordmaskError, match="columns"):
        many.grid(0)


def test_a_notebook_shows_pictures() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        "import numpy as np",
        "from wordmask.segmentation import Segmentation, Segmentations",
        'one = Segmentation(np.eye(9, dtype=np.uint8), ("cat",))',
    ]
    notebook = nbformat.v4.new_notebook()
    for source in ("\n".join([*cells, "one"]), "Segmentations([one, one])", "Segmentations()"):
        notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbclient.NotebookClient(notebook, timeout=400, startup_timeout=400).execute()
    shown = [cell.outputs[0]["data"] for cell in notebook.cells]
    assert [set(data) for data in shown] == [{"text/plain", "image/png"}] * 2 + [{"text/plain"}]
    for data, result in zip(shown, (1, 2), strict=False):
        assert data["text/plain"].count("Segmentation(9x9, 1 of 1 words found") == result
