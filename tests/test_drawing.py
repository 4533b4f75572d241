from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordmask import drawing
from wordmask.colours import heat_colours, rgb_to_oklab
from wordmask.errors import ImageError, WordmaskError

NAMES = ("cat", "dog", "sofa")


def photo(height: int, width: int) -> np.ndarray:
    """A picture of mid tones without structure of its own."""
    return np.random.default_rng(0).integers(60, 200, (height, width, 3), dtype=np.uint8)


# --- overlay


def test_without_a_legend_the_overlay_has_the_size_of_the_picture() -> None:
    labels = np.zeros((40, 70), np.uint8)
    picture = drawing.overlay(photo(40, 70), labels, NAMES, legend=False)
    assert (picture.mode, picture.size) == ("RGB", (70, 40))


def test_from_the_picture_to_flat_colours_as_alpha_says() -> None:
    image = np.full((40, 60, 3), (40, 100, 160), np.uint8)
    image[::2] += 60
    labels = np.full((40, 60), 2, np.uint8)
    colour = drawing.palette(3)[2].astype(float)

    def shown(alpha: float) -> np.ndarray:
        return np.asarray(drawing.overlay(image, labels, NAMES, alpha, legend=False)).astype(float)

    np.testing.assert_array_equal(shown(0), image)
    assert np.abs(shown(1) - colour).max() <= 1
    assert np.abs(shown(0.25) - (0.5 * image + 0.5 * shown(0.5))).max() <= 40  # fades
    light, dark = (rgb_to_oklab(shown(0.55)[row, 0]) for row in (0, 1))
    assert light[0] > dark[0] + 0.05  # the picture's own lights and darks


GROUNDS = {
    "red": (250, 10, 10),
    "green": (10, 240, 20),
    "blue": (10, 20, 250),
    "yellow": (250, 240, 10),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
PHOTOS = ("coffee", "chelsea")


@pytest.mark.parametrize("ground", [*GROUNDS, *PHOTOS])
def test_every_class_has_the_colour_of_the_legend_on_any_ground(ground: str) -> None:
    """The mean colour of a region is nearest to its own of the 24 colours, by far (OKLab)."""
    if ground in PHOTOS:
        file = Path(__file__).parents[1] / "examples" / f"{ground}.jpg"
        image = np.asarray(Image.open(file).convert("RGB").resize((300, 200)))
    else:
        grain = np.random.default_rng(0).normal(0, 25, (200, 300, 1))
        image = (np.array(GROUNDS[ground]) + grain).clip(0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:200, :300]
    colours = rgb_to_oklab(drawing.palette(24)[1:])
    for shift in (0, 7, 15):  # other classes on other parts of the photo
        labels = ((rows // 50 * 6 + columns // 50 + shift) % 24 + 1).astype(np.uint8)
        names = [str(i) for i in range(24)]
        shown = drawing.overlay(image, labels, names, legend=False)
        lab = rgb_to_oklab(np.asarray(shown))
        inside = (abs(rows % 50 - 25) < 20) & (abs(columns % 50 - 25) < 20)  # of the contours
        for i in range(1, 25):
            mean = lab[(labels == i) & inside].mean(axis=0)
            distances = np.linalg.norm(colours - mean, axis=1)
            assert distances.argmin() == i - 1, (i, distances)
            assert distances[i - 1] < 0.06


def test_unlabelled_pixels_are_grey_and_darker_and_keep_their_order_of_brightness() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:] = (200, 100, 40)
    image[:, 30:] //= 2
    shown = np.asarray(drawing.overlay(image, np.zeros((40, 60), np.uint8), NAMES, legend=False))
    assert shown[:, :30].mean() < image[:, :30].mean()
    assert (np.ptp(shown, axis=-1) == 0).all()
    assert shown[:, 40:].mean() < shown[:, :20].mean()


def test_a_contour_runs_between_regions_and_nowhere_else() -> None:
    image = np.full((60, 90, 3), 100, np.uint8)
    labels = np.ones((60, 90), np.uint8)
    labels[:, 45:] = 2
    shown = np.asarray(drawing.overlay(image, labels, NAMES, legend=False)).astype(int)
    assert (shown[:, 43:48].max(axis=1) > 180).all()
    for columns in (shown[:, :40], shown[:, 50:]):
        assert (columns == columns[0, 0]).all()


def test_the_inputs_stay_as_they_are() -> None:
    image, labels = photo(50, 50), np.eye(50, dtype=np.uint8)
    as_pil = Image.fromarray(image)
    before = image.copy(), labels.copy()
    drawing.overlay(image, labels, NAMES)
    drawing.overlay(as_pil, labels, NAMES)
    drawing.mark_point(as_pil, 25, 25)
    drawing.mark_point(image, 25, 25)
    drawing.strip([as_pil, image], ["a", "b"])
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])
    np.testing.assert_array_equal(np.asarray(as_pil), before[0])


def test_arrays_and_pil_images_of_any_mode_do_the_same() -> None:
    image = np.repeat(photo(30, 40)[:, :, :1], 3, axis=2)
    labels = np.tile(np.arange(40, dtype=np.uint8) // 10, (30, 1))
    expected = np.asarray(drawing.overlay(image, labels, NAMES))
    for mode in ("RGB", "L", "RGBA"):
        other = drawing.overlay(Image.fromarray(image).convert(mode), labels, NAMES)
        np.testing.assert_array_equal(np.asarray(other), expected)


def test_bands_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (60, 20)).repeat(9, axis=0).repeat(7, axis=1)
    labels = labels.astype(np.uint8)
    image = photo(*labels.shape)
    for given in (image, Image.fromarray(image), None):
        monkeypatch.setattr(drawing, "BAND", 2**21)
        whole = drawing.overlay(given, labels, NAMES)
        monkeypatch.setattr(drawing, "BAND", 1)
        np.testing.assert_array_equal(np.asarray(drawing.overlay(given, labels, NAMES)), whole)
    assert drawing.count_labels(labels, 5).tolist() == np.bincount(labels.ravel(), None, 6).tolist()


# --- legend


def has_colour(picture: np.ndarray, colour: np.ndarray) -> bool:
    return bool((picture == colour).all(axis=-1).any())


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300)])
def test_the_legend_covers_nothing_and_shows_the_classes_that_occur(
    height: int, width: int
) -> None:
    labels = np.zeros((height, width), np.uint8)
    labels[50:150, 50:150] = 1
    labels[160:200, 50:150] = 3
    image = photo(height, width)
    plain = np.asarray(drawing.overlay(image, labels, NAMES, legend=False))
    full = np.asarray(drawing.overlay(image, labels, NAMES))
    np.testing.assert_array_equal(full[:height, :width], plain)
    beside = height > width
    assert full.shape[0] == height if beside else full.shape[0] > height
    assert full.shape[1] > width if beside else full.shape[1] == width
    legend = full[:, width:] if beside else full[height:]
    colours = drawing.palette(3)
    assert has_colour(legend, colours[1])
    assert has_colour(legend, colours[3])
    assert not has_colour(legend, colours[2])
    for border in (legend[0], legend[-1], legend[:, 0], legend[:, -1]):
        assert (border == 255).all()  # no text is clipped


def test_the_legend_lists_most_pixels_first_and_unlabelled_last() -> None:
    assert drawing._entries(np.array([5, 1, 0, 2]), NAMES) == [
        (3, "sofa", 2 / 8),
        (1, "cat", 1 / 8),
        (0, "unlabelled", 5 / 8),
    ]
    assert drawing._entries(np.array([0, 0, 2, 0]), NAMES) == [(2, "dog", 1.0)]


def test_the_legend_sums_up_the_rare_classes() -> None:
    names = [f"class {i}" for i in range(1, 101)]
    entries = drawing._entries(np.array([0, *range(100, 0, -1)]), names)
    assert [name for _, name, _ in entries] == [*names[:60], "40 more"]
    assert entries[-1][2] == pytest.approx(sum(range(1, 41)) / 5050)


def test_numbers_are_needed_where_colours_do_not_do() -> None:
    assert not drawing.need_numbers([])
    assert not drawing.need_numbers(range(11))  # ten classes and none of them
    assert drawing.need_numbers(range(12))
    colours = rgb_to_oklab(drawing.palette(300))
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    alike = [1, *np.argwhere(np.triu((distances < 0.02), 1))[0].tolist()]
    assert drawing.need_numbers(alike)  # similar colours, which come from the 25th on


def test_numbers_are_in_every_region_and_in_the_legend() -> None:
    labels = np.zeros((300, 400), np.uint8)
    labels[20:120, 20:120] = 12
    labels[20:120, 200:380] = 12  # two regions of one class
    labels[160:280, 40:360] = 3
    labels[140:143, 40:360] = 5  # no room
    names = [f"class {i}" for i in range(1, 13)]
    places = list(drawing._places(labels))
    assert sorted(label for label, _, _ in places) == [3, 12, 12]
    for label, (x, y), size in places:
        assert labels[round(y), round(x)] == label
        assert size >= 9
    plain, numbered = (
        np.asarray(drawing.overlay(None, labels, names, numbers=on)) for on in (False, True)
    )
    changed = (plain[:300, :400] != numbered[:300, :400]).any(axis=-1)
    assert changed[20:120, 20:120].any()
    assert changed[20:120, 200:380].any()
    assert not changed[:, 130:190][:150].any()
    assert numbered.shape[0] > 300
    legend = drawing.legend([("cat", (0, 90, 200))], 200, numbers=[12])
    assert (np.asarray(legend) == 255).all(axis=-1)[:, 12:40].any()  # white digits in the chip


def test_numbers_are_written_from_eleven_classes_on() -> None:
    labels = np.arange(12).repeat(30)[None].repeat(200, axis=0).astype(np.uint8)
    names = [f"class {i}" for i in range(1, 12)]
    by_itself = drawing.overlay(None, labels, names)
    asked = drawing.overlay(None, labels, names, numbers=True)
    np.testing.assert_array_equal(np.asarray(by_itself), np.asarray(asked))
    assert by_itself.tobytes() != drawing.overlay(None, labels, names, numbers=False).tobytes()


def test_the_legend_grows_with_the_picture() -> None:
    def legend_height(scale: int) -> int:
        labels = np.full((100 * scale, 150 * scale), 1, np.uint8)
        return drawing.overlay(None, labels, NAMES).height - 100 * scale

    assert legend_height(16) == pytest.approx(2 * legend_height(8), rel=0.1)


def test_many_classes_wrap_in_columns_and_the_rest_is_summed_up() -> None:
    names = [f"class {i}" for i in range(1, 201)]
    labels = (np.arange(600 * 800).reshape(600, 800) // 2400 + 1).astype(np.uint8)  # all of them
    shown = drawing.overlay(photo(600, 800), labels, names)
    assert shown.width == 800
    assert shown.height < 600 + 600
    legend = np.asarray(shown)[600:]
    colours = drawing.palette(200)[1:]
    named = [has_colour(legend, colour) for colour in colours]
    assert all(named[: drawing.MOST_ENTRIES])
    assert not any(named[drawing.MOST_ENTRIES :])
    halves = legend[:, :400], legend[:, 400:]
    assert all(any(has_colour(half, colour) for colour in colours) for half in halves)
    assert (legend[-1] == 255).all()
    assert (legend[:, -1] == 255).all()


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (1, 500), (500, 1), (3, 14), (14, 3), (33, 33)]
)
def test_tiny_pictures_get_a_legible_legend(size: tuple[int, int]) -> None:
    labels = np.ones(size, np.uint8)
    labels[-1, -1] = 0
    shown = drawing.overlay(np.full((*size, 3), 128, np.uint8), labels, NAMES)
    assert shown.width >= max(size[1], 60)
    assert shown.height >= max(size[0], 30)
    edges = np.asarray(shown)
    assert (edges[-1, size[1] :] == 255).all()
    assert (edges[size[0] :, -1] == 255).all()


@pytest.mark.parametrize(
    "name",
    [
        "a word " * 400,
        "x" * 5000,
        "\u732b\u306e\u5199\u771f",
        "\u043a\u043e\u0448\u043a\u0430",
        "\u0642\u0637\u0629",
        "caf\u00e9",
        "\U0001f431",
        "e\u0301",
        "two\nlines\tand a tab",
        "\x07 \x00",
        "\ud83d",
        "\uffff",
        " ",
        "",
    ],
)
def test_any_name_can_be_drawn(name: str) -> None:
    labels = np.ones((200, 300), np.uint8)
    shown = np.asarray(drawing.overlay(photo(200, 300), labels, [name]))
    assert shown.shape[1] == 300
    assert (shown[200:, -1] == 255).all()
    assert has_colour(shown[200:], drawing.palette(1)[1])
    drawing.strip([photo(20, 20)], [name])


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.004, "<1 %"),
        (0.01, "1 %"),
        (0.414, "41 %"),
        (0.996, ">99 %"),
        (1.0, "100 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert drawing.percent(share) == text


# --- heat maps, strips


def test_heat_map_takes_its_range_from_the_arguments() -> None:
    values = np.array([[0.0, 1.0]])
    colours = heat_colours()
    shown = np.asarray(drawing.heat_map(values, (1, 2), 0.0, 1.0))
    np.testing.assert_array_equal(shown[0], colours[[0, 255]])
    shown = np.asarray(drawing.heat_map(values, (1, 2), -1.0, 1.0))
    np.testing.assert_array_equal(shown[0], colours[[128, 255]])
    shown = np.asarray(drawing.heat_map(values, (1, 2), 0.25, 0.75))  # beyond it: the ends
    np.testing.assert_array_equal(shown[0], colours[[0, 255]])


def test_heat_map_has_the_size_asked_for_and_keeps_left_and_top() -> None:
    values = np.zeros((7, 9))
    values[0, 0] = 1
    for image in (None, photo(30, 40)):
        heat = drawing.heat_map(values, (70, 120), 0, 1, image)
        assert heat.size == (120, 70)
        brightness = np.asarray(heat.convert("L")).astype(float)
        assert brightness[:10, :10].mean() > brightness[-10:, -10:].mean() + 50


def test_heat_map_over_a_picture_is_a_mixture_of_both() -> None:
    image = np.full((10, 10, 3), 100, np.uint8)
    shown = np.asarray(drawing.heat_map(np.ones((2, 2)), (10, 10), 0, 1, image, alpha=0.5))
    expected = 50 + 0.5 * heat_colours()[255].astype(float)
    assert np.abs(shown - expected).max() <= 1


def test_heat_map_with_a_colour_bar_has_the_map_above_and_numbers_below() -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    alone = np.asarray(drawing.heat_map(values, (90, 120), 0.0, 1.0))
    both = np.asarray(drawing.heat_map(values, (90, 120), 0.0, 1.0, bar=True))
    np.testing.assert_array_equal(both[:90], alone)
    below = both[90:]
    for x, colour in ((0, heat_colours()[0]), (119, heat_colours()[255])):
        assert np.abs(below[:20, x].astype(int) - colour).sum(axis=-1).min() < 20
    dark = (below < 90).all(axis=-1)
    assert dark[-10:, :40].any()  # "0"
    assert dark[-10:, 80:].any()  # "1.0"


def test_heat_map_of_equal_values_is_even() -> None:
    shown = np.asarray(drawing.heat_map(np.full((3, 4), 5.0), (9, 12), 5.0, 5.0))
    assert (shown == shown[0, 0]).all()


@pytest.mark.parametrize("values", [np.ones((3, 4, 2)), np.ones((0, 4)), np.full((3, 4), np.nan)])
def test_heat_map_refuses_what_is_no_map(values: np.ndarray) -> None:
    with pytest.raises(WordmaskError, match="a heat map needs") as error:
        drawing.heat_map(values, (9, 12), 0, 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("low", "high"), [(1, 0), (0, np.nan), (-np.inf, 0)])
def test_heat_map_refuses_an_impossible_range(low: float, high: float) -> None:
    with pytest.raises(WordmaskError, match="low <= high"):
        drawing.heat_map(np.ones((3, 4)), (9, 12), low, high)


def test_strip_sets_pictures_of_equal_height_side_by_side() -> None:
    red = np.zeros((100, 200, 3), np.uint8)
    red[:] = (255, 0, 0)
    blue = np.zeros((50, 50, 3), np.uint8)
    blue[:] = (0, 0, 255)
    page = np.asarray(drawing.strip([red, blue], ["red", "blue"]))
    is_red, is_blue = ((page == colour).all(axis=-1) for colour in ((255, 0, 0), (0, 0, 255)))
    assert is_red.sum() == 100 * 200
    assert is_blue.sum() == 100 * 100  # twice as large, as high as the red one
    np.testing.assert_array_equal(is_red.any(axis=1), is_blue.any(axis=1))
    assert np.nonzero(is_red.any(axis=0))[0].max() < np.nonzero(is_blue.any(axis=0))[0].min()
    for border in (page[0], page[-1], page[:, 0], page[:, -1]):
        assert (border == 255).all()


def test_strip_sets_columns_and_rows() -> None:
    images = [np.full((40, 60, 3), 10 * i, np.uint8) for i in range(1, 6)]
    page = np.asarray(drawing.strip(images, [""] * 5, columns=2))

    def place(i: int) -> tuple[int, int]:
        rows, columns = np.nonzero((page == 10 * i).all(axis=-1))
        assert len(rows) == 40 * 60
        return int(rows.min()), int(columns.min())

    assert place(1)[0] == place(2)[0] < place(3)[0] == place(4)[0] < place(5)[0]
    assert place(1)[1] == place(3)[1] == place(5)[1] < place(2)[1] == place(4)[1]


def test_strip_of_extreme_pictures_stays_small() -> None:
    page = drawing.strip(
        [photo(1, 500), photo(500, 1), photo(1, 1)], ["wide", "high", "one"], height=64
    )
    assert page.height < 200
    assert page.width < 1000


@pytest.mark.parametrize(
    ("count", "titles", "columns", "height"),
    [(0, [], None, None), (2, ["one"], None, None), (1, ["a"], 0, None), (1, ["a"], 1, 0)],
)
def test_strip_refuses_what_does_not_fit(
    count: int, titles: list[str], columns: int | None, height: int | None
) -> None:
    with pytest.raises(WordmaskError, match="got"):
        drawing.strip([photo(5, 5)] * count, titles, columns, height)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (99, 59), (30, 20)])
def test_mark_point_changes_the_neighbourhood_of_the_point_only(x: int, y: int) -> None:
    image = np.full((60, 100, 3), 120, np.uint8)
    changed = (np.asarray(drawing.mark_point(image, x, y)) != 120).any(axis=-1)
    assert changed[y, x]
    rows, columns = np.nonzero(changed)
    assert np.abs(rows - y).max() <= 6
    assert np.abs(columns - x).max() <= 6


def test_mark_point_is_centred() -> None:
    image = np.full((61, 101, 3), 120, np.uint8)
    changed = (np.asarray(drawing.mark_point(image, 50, 30)) != 120).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert rows.mean() == pytest.approx(30, abs=0.1)
    assert columns.mean() == pytest.approx(50, abs=0.1)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (100, 0), (0, 60)])
def test_mark_point_refuses_a_point_outside(x: int, y: int) -> None:
    with pytest.raises(WordmaskError, match="outside the picture of 100x60"):
        drawing.mark_point(photo(60, 100), x, y)


# --- bad input


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 5, 1), np.uint8), "shape"),
        (np.zeros((0, 5), np.uint8), "pixels"),
        (np.zeros((4, 5)), "integers"),
        (np.full((4, 5), 4, np.uint8), "0 to 3"),
        (np.full((4, 5), -1), "0 to 3"),
        ([[0, 1]], "array"),
    ],
)
def test_overlay_refuses_labels_without_a_name(labels: np.ndarray, message: str) -> None:
    with pytest.raises(WordmaskError, match=message) as error:
        drawing.overlay(photo(4, 5), labels, NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "image",
    [
        photo(4, 6),
        photo(4, 5).astype(np.float32),
        photo(4, 5)[:, :, 0],
        photo(4, 5)[:, :, :2],
        "photo.jpg",
    ],
)
def test_overlay_refuses_a_picture_that_does_not_fit(image: np.ndarray) -> None:
    with pytest.raises(ImageError) as error:
        drawing.overlay(image, np.zeros((4, 5), np.uint8), NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_overlay_refuses_an_impossible_alpha(alpha: float) -> None:
    with pytest.raises(WordmaskError, match="alpha must be between 0 and 1"):
        drawing.overlay(photo(4, 5), np.zeros((4, 5), np.uint8), NAMES, alpha)
