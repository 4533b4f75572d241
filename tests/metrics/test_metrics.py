"""Metrics against released code, against plain slow counting, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from places import GOLDEN
from wordmask.datasets import VOID
from wordmask.errors import WordmaskError
from wordmask.metrics import Boundary, Calibration, Confusion, Counted, Metrics, PerPicture
from wordmask.metrics.bootstrap import paired_interval, percentile_interval
from wordmask.metrics.boundary import boundary, boundary_distance
from wordmask.metrics.confusion import count_pairs
from wordmask.metrics.image_level import average_precision

V = VOID
CASES = ["c6_all_present", "c6_class4_predicted_not_in_gt", "c8_class4_fp_class7_absent"]


def labels(*rows):
    return np.array(rows, np.uint16)


def draw_maps(random, classes, background=True, size=(9, 11), count=4):
    """Pictures of a few rectangles, with void and classes that do not occur."""
    pictures = []
    for number in range(count):
        maps = []
        for first in (0 if background else 1, 0):
            drawn = np.full(size, random.integers(first, classes + 1), np.uint16)
            for _ in range(5):
                y, x = random.integers(0, size[0]), random.integers(0, size[1])
                drawn[y:, x : x + 4] = random.integers(first, classes + 1)
            maps.append(drawn)
        maps[0][random.random(size) < 0.1] = V
        pictures.append((f"p{number}", *maps))
    return pictures


# -- the released code ----------------------------------------------------------------------------


def golden(case):
    tensors = load_file(GOLDEN / "metrics" / case / "tensors.safetensors")
    meta = json.loads((GOLDEN / "metrics" / case / "meta.json").read_text())["parameters"]
    pictures = []
    for i in range(4):
        target = tensors[f"gt.{i}"].astype(np.uint16)
        target[target == meta["ignore"]] = V
        pictures.append((target, tensors[f"pred.{i}"]))
    return tensors, meta["results"], meta["num_classes"], pictures


@pytest.mark.parametrize("case", CASES)
def test_released_code(case):
    tensors, results, classes, pictures = golden(case)
    confusion = Confusion(classes - 1)
    for target, prediction in pictures:
        confusion.update(target, prediction)
    assert np.array_equal(confusion.counts, tensors["confusion"])
    assert np.array_equal(confusion.intersect, tensors["mmseg.intersect"])
    assert np.array_equal(confusion.union, tensors["mmseg.union"])
    assert np.array_equal(confusion.target_area, tensors["mmseg.label"])
    assert np.array_equal(confusion.prediction_area, tensors["mmseg.pred"])

    def equal(ours, theirs, tolerance=1e-9):
        theirs = np.array(theirs, np.float64)  # null is NaN
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)

    # mmseg divides in float32, its mean included
    mmseg = results["mmseg"]
    iou, accuracy = (
        per_class.astype(np.float32)
        for per_class in (confusion.per_class_iou(), confusion.per_class_accuracy())
    )
    equal(iou, mmseg["IoU"])
    equal(accuracy, mmseg["Acc"])
    equal(np.float32(confusion.pixel_accuracy()), mmseg["aAcc"])
    mean_iou, mean_accuracy = "mIoU (nanmean over classes with union>0)", "mAcc (nanmean)"
    equal(np.nanmean(iou), mmseg[mean_iou])
    equal(np.nanmean(accuracy), mmseg[mean_accuracy])
    equal(confusion.mean_iou("union"), mmseg[mean_iou], 1e-7)
    equal(confusion.mean_accuracy("present"), mmseg[mean_accuracy], 1e-7)
    # CLIPer v1 is exact, v2 adds 1e-5 to what it divides by
    first, second = results["cliper_v1"], results["cliper_v2"]
    equal(confusion.mean_iou("present"), first["mIoU"])
    equal(confusion.pixel_accuracy(), first["pAcc"])
    equal(confusion.mean_accuracy("present"), first["mAcc"])
    present = confusion.target_area > 0
    smoothed = (confusion.intersect / (confusion.union + 1e-5))[present].mean()
    equal(smoothed, second["mIoU"])
    equal((confusion.intersect / (confusion.target_area + 1e-5)).mean(), second["mAcc"])
    assert confusion.mean_accuracy("all") == pytest.approx(second["mAcc"], abs=1e-7)
    # CLIPtrase gives percent with two digits
    trase = results["cliptrase"]
    for name, ours in (
        ("pAcc", confusion.pixel_accuracy()),
        ("mAcc", confusion.mean_accuracy("all")),
        ("fwIoU", confusion.frequency_weighted_iou()),
        ("mIoU", confusion.mean_iou("present")),
    ):
        assert round(100 * ours, 2) == trase[name]


# -- by hand --------------------------------------------------------------------------------------

TARGET = labels([0, 0, 1], [0, 1, 1], [2, 2, V])
PREDICTION = labels([0, 1, 1], [0, 1, 2], [2, 0, 0])


def test_nine_pixels_by_hand():
    confusion = Confusion(3)
    confusion.update(TARGET, PREDICTION)
    expected = np.zeros((4, 4), int)
    expected[0, :2] = 2, 1
    expected[1, 1:3] = 2, 1
    expected[2, [0, 2]] = 1, 1
    assert np.array_equal(confusion.counts, expected)
    assert (confusion.void_pixels, confusion.images) == (1, 1)
    np.testing.assert_allclose(confusion.per_class_iou(), [2 / 4, 2 / 4, 1 / 3, np.nan])
    summary = confusion.summary()
    assert summary == pytest.approx(
        {
            "miou_union": 4 / 9,
            "miou_present": 4 / 9,
            "pixel_accuracy": 5 / 8,
            "mean_accuracy_present": (2 / 3 + 2 / 3 + 1 / 2) / 3,
            "mean_accuracy_all": (2 / 3 + 2 / 3 + 1 / 2) / 4,
            "frequency_weighted_iou": (3 * 2 / 4 + 3 * 2 / 4 + 2 * 1 / 3) / 8,
        },
        abs=1e-15,
    )


def test_a_class_that_is_not_there_counts_in_one_definition_alone():
    prediction = PREDICTION.copy()
    prediction[2, 1] = 3
    confusion = Confusion(3)
    confusion.update(TARGET, prediction)
    assert confusion.mean_iou("union") == pytest.approx((2 / 3 + 2 / 4 + 1 / 3 + 0) / 4)
    assert confusion.mean_iou("present") == pytest.approx((2 / 3 + 2 / 4 + 1 / 3) / 3)
    # predicted in the void alone: its union stays empty
    prediction[2, 1], prediction[2, 2] = 0, 3
    confusion = Confusion(3)
    confusion.update(TARGET, prediction)
    assert math.isnan(confusion.per_class_iou()[3])


def test_void_as_background():
    confusion = Confusion(3, void="background")
    confusion.update(TARGET, PREDICTION)
    assert confusion.per_class_iou()[0] == pytest.approx(3 / 5)
    assert confusion.pixel_accuracy() == pytest.approx(6 / 9)
    assert confusion.void_pixels == 0
    alone = Confusion(1, void="background")
    alone.update(labels([V, 1]), labels([0, 0]))
    assert alone.counts.tolist() == [[1, 0], [1, 0]]


def test_without_background_nothing_is_a_wrong_prediction_and_no_class():
    target = labels([1, 1, 2], [V, 2, 2], [3, 3, 3])
    prediction = labels([1, 0, 2], [1, 2, 0], [3, 3, 1])
    confusion = Confusion(3, background=False)
    confusion.update(target, prediction)
    np.testing.assert_allclose(confusion.per_class_iou(), [1 / 3, 2 / 3, 2 / 3])
    assert confusion.mean_iou() == pytest.approx(5 / 9)
    assert confusion.pixel_accuracy() == pytest.approx(5 / 8)


def test_nothing_counted_is_not_a_number():
    confusion = Confusion(2)
    confusion.update(labels([V, V]), labels([0, 1]))
    assert all(math.isnan(x) for name, x in confusion.summary().items() if name[-3:] != "all")
    assert confusion.mean_accuracy("all") == 0
    assert confusion.images == 1
    metrics = Metrics(2)
    assert math.isnan(metrics.per_picture.intervals(resamples=3)["miou_union"][0])
    assert math.isnan(metrics.image_level.summary()["f1"])
    assert math.isnan(Calibration().error())


# -- properties -----------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 6), st.booleans(), st.sampled_from(["ignore", "background"]))
def test_counts_equal_counting_pixel_by_pixel(seed, classes, background, void):
    void = void if background else "ignore"
    random = np.random.default_rng(seed)
    confusion = Confusion(classes, background, void)
    expected = np.zeros((classes + 1, classes + 1), int)
    for _, target, prediction in draw_maps(random, classes, background):
        confusion.update(target, prediction.astype(np.uint8))
        for t, a in zip(target.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if t != V:
                expected[t, a] += 1
            elif void == "background":
                expected[0, a] += 1
    assert np.array_equal(confusion.counts, expected)
    for value in confusion.summary().values():
        assert math.isnan(value) or 0 <= value <= 1


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 20, 300, 847]))
def test_pairs_of_any_labels(seed, classes):
    random = np.random.default_rng(seed)
    target = random.integers(0, classes + 1, (6, 5)).astype(random.choice([np.uint16, np.int64]))
    prediction = random.integers(0, classes + 1, (6, 5)).astype(np.uint16)
    rows, columns, pixels = count_pairs(target, prediction)
    assert (rows.tolist(), columns.tolist()) == (sorted({*target.flat}), sorted({*prediction.flat}))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert pixels[i, j] == ((target == row) & (prediction == column)).sum()


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.booleans())
def test_counts_add_up_and_neither_order_nor_a_journal_matters(seed, background):
    random = np.random.default_rng(seed)
    pictures = draw_maps(random, 4, background, count=6)
    extra = [
        {"scores": random.random(4), "confidence": random.random((9, 11)).astype(np.float32)}
        for _ in pictures
    ]
    one = Metrics(4, background)
    for picture, more in zip(pictures, extra, strict=True):
        one.update(*picture, **more)
    at_once = Confusion(4, background)
    at_once.update(*(np.concatenate([p[i] for p in pictures]) for i in (1, 2)))
    assert np.array_equal(at_once.counts, one.confusion.counts)

    other = Metrics(4, background)
    for i in random.permutation(len(pictures)):
        counted = other.count(*pictures[i], **extra[i])
        other.add(Counted.from_state(json.loads(json.dumps(counted.state()))))
    assert np.array_equal(other.confusion.counts, one.confusion.counts)
    assert other.confusion.void_pixels == one.confusion.void_pixels
    assert other.confusion.images == one.confusion.images == 6
    assert np.array_equal(other.boundary.areas, one.boundary.areas)
    assert np.array_equal(other.calibration.counts, one.calibration.counts)
    np.testing.assert_equal(other.summary(), one.summary())
    np.testing.assert_equal(
        other.per_picture.intervals(resamples=20), one.per_picture.intervals(resamples=20)
    )
    np.testing.assert_equal(other.per_picture.mean_iou(), one.per_picture.mean_iou())


def test_areas_of_pictures_add_up_to_those_of_the_set():
    for background in (True, False):
        metrics = Metrics(5, background)
        for picture in draw_maps(np.random.default_rng(3), 5, background, count=9):
            metrics.update(*picture)
        sums = np.zeros((3, 6), int)
        for areas in metrics.per_picture.areas.values():
            sums[:, areas[0]] += areas[1:].astype(int)
        confusion = metrics.confusion
        expected = [confusion.intersect, confusion.target_area, confusion.prediction_area]
        assert np.array_equal(sums[:, confusion.first :], expected)


# -- intervals ------------------------------------------------------------------------------------


def test_intervals_equal_counting_the_drawn_pictures_again():
    pictures = draw_maps(np.random.default_rng(1), 70, count=8)  # over one block of classes
    metrics = Metrics(70)
    for picture in pictures:
        metrics.update(*picture)
    found = metrics.per_picture.intervals(0.8, resamples=30, seed=5)
    draws = np.random.default_rng(5).multinomial(8, [1 / 8] * 8, 30)
    drawn = []
    for counts in draws:
        confusion = Confusion(70)
        for (_, target, prediction), times in zip(pictures, counts, strict=True):
            for _ in range(times):
                confusion.update(target, prediction)
        drawn.append(confusion.summary())
    for name, interval in found.items():
        expected = np.percentile([one[name] for one in drawn], [10, 90])
        np.testing.assert_allclose(interval, expected, rtol=0, atol=1e-12)
        low, high = interval
        assert low < high
    assert metrics.per_picture.intervals(0.8, 30, seed=6) != found


def test_paired_intervals_are_of_the_same_draws():
    pictures = draw_maps(np.random.default_rng(1), 5, count=12)
    one, other, reverse = Metrics(5), Metrics(5), Metrics(5)
    for name, target, prediction in pictures:
        one.update(name, target, prediction)
        other.update(name, target, np.where(prediction == 1, 2, prediction))
    for name, target, prediction in reversed(pictures):
        reverse.update(name, target, prediction)
    a, b, c = (m.per_picture.resamples(200)["miou_union"] for m in (one, other, reverse))
    assert np.array_equal(a, c)
    assert paired_interval(a, c) == (0, 0)
    low, high = paired_interval(a, b)
    unpaired = np.percentile(np.subtract.outer(a, b), [2.5, 97.5])
    assert high - low < unpaired[1] - unpaired[0]
    assert percentile_interval(a) == one.per_picture.intervals(resamples=200)["miou_union"]


def test_one_picture_has_no_spread():
    metrics = Metrics(3)
    metrics.update("a", TARGET, PREDICTION)
    low, high = metrics.per_picture.intervals(resamples=10)["miou_union"]
    assert low == high == pytest.approx(4 / 9)
    assert metrics.per_picture.mean_iou("union") == {"a": pytest.approx(4 / 9)}


# -- boundary IoU ---------------------------------------------------------------------------------


def eroded(mask, distance):
    """`distance` erosions by 3 x 3, pixel by pixel; outside the picture nothing is set."""
    height, width = mask.shape
    for _ in range(distance):
        before = mask.copy()
        for y in range(height):
            for x in range(width):
                inside = 0 < y < height - 1 and 0 < x < width - 1
                mask[y, x] = inside and before[y - 1 : y + 2, x - 1 : x + 2].all()
    return mask


def plain_boundary(mask, distance):
    return mask & ~eroded(mask.copy(), distance)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_all_boundaries_at_once_equal_mask_minus_erosion(seed, height, width, distance):
    random = np.random.default_rng(seed)
    (_, _, drawn), *_ = draw_maps(random, 3, size=(height, width))
    expected = np.zeros((height, width), bool)
    for label in range(4):
        expected |= plain_boundary(drawn == label, distance)
    assert np.array_equal(boundary(drawn, distance), expected)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.booleans())
def test_boundary_iou_equals_the_plain_one(seed, background):
    ratio, classes = 0.15, 3
    counted = Boundary(classes, background, ratio)
    expected = np.zeros((3, classes + 1), int)
    for _, target, prediction in draw_maps(np.random.default_rng(seed), classes, background):
        counted.update(target, prediction)
        distance, known = boundary_distance(target.shape, ratio), target != V
        for label in range(classes + 1):
            target_boundary = plain_boundary(target == label, distance)
            prediction_boundary = plain_boundary((prediction == label) & known, distance)
            both = target_boundary & prediction_boundary
            expected[:, label] += both.sum(), target_boundary.sum(), prediction_boundary.sum()
    assert distance == 2
    assert np.array_equal(counted.areas, expected)
    intersect, target_area, prediction_area = expected[:, 0 if background else 1 :]
    union = target_area + prediction_area - intersect
    assert counted.mean_iou("union") == pytest.approx((intersect / union.clip(1))[union > 0].mean())


def test_the_distance_is_a_fiftieth_of_the_diagonal():
    assert boundary_distance((375, 500)) == 12  # of 12.5, as Python rounds
    assert boundary_distance((1024, 2048)) == 46
    assert boundary_distance((3, 3)) == 1


def test_boundaries_by_hand_and_a_right_prediction_is_one():
    counted = Boundary(1)
    counted.update(labels([0, 0, 0], [0, 0, 0], [0, 0, 0]), labels([0] * 3, [0, 1, 0], [0] * 3))
    assert counted.areas.tolist() == [[8, 0], [8, 0], [8, 1]]  # the inner pixel is no boundary
    np.testing.assert_allclose(counted.per_class_iou(), [1, 0])
    assert (counted.mean_iou("union"), counted.mean_iou("present")) == (0.5, 1)
    for _, target, prediction in draw_maps(np.random.default_rng(0), 3, size=(40, 60)):
        counted = Boundary(3)
        counted.update(target, np.where(target == V, prediction, target))
        assert counted.mean_iou() == 1


# -- image-level classification -------------------------------------------------------------------


def test_average_precision_by_hand():
    present = np.array([True, False, True, False])
    assert average_precision(present, np.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx(5 / 6)
    for order in ([0, 1], [1, 0]):  # equals pass together
        tied = np.array([True, False])[order]
        assert average_precision(tied, np.array([0.5, 0.5])) == 0.5
    assert math.isnan(average_precision(np.array([False]), np.array([0.5])))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12))
def test_average_precision_equals_one_threshold_after_another(rows):
    present, scores = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], float)
    expected, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        predicted = scores >= threshold
        recall = (present & predicted).sum() / max(present.sum(), 1)
        expected += (recall - before) * (present & predicted).sum() / predicted.sum()
        before = recall
    found = average_precision(present, scores)
    assert math.isnan(found) if not present.any() else found == pytest.approx(expected)


def test_two_f1_by_name():
    """The mean of the classes' F1, and the F1 of the mean precision and recall: other numbers."""
    metrics = Metrics(2)
    metrics.update("a", labels([0, 1, 2]), labels([0, 1, 0]))  # class 1: P 1/2, R 1; 2: P 0, R 0
    metrics.update("b", labels([0, 0, 2]), labels([0, 1, 0]))
    metrics.update("c", labels([0, 0, 2]), labels([0, 2, 0]))  # class 2: P 1, R 1/3
    found = metrics.summary()
    assert found["image_precision"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["image_recall"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["image_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["image_f1_of_means"] == pytest.approx(2 * (3 / 4) * (2 / 3) / (3 / 4 + 2 / 3))
    nothing = Metrics(2)
    nothing.update("a", labels([0, 1]), labels([0, 0]))
    assert nothing.summary()["image_f1_of_means"] == 0
    assert math.isnan(Metrics(2).summary()["image_f1_of_means"])


def test_image_level_scores_by_hand():
    metrics = Metrics(3)
    # classes 1 and 2 are there; 1 and 3 are predicted
    metrics.update("a", labels([0, 1, 2]), labels([1, 1, 3]), scores=[0.9, 0.2, 0.8])
    # class 1 is there and predicted; 2 is predicted in the void alone
    metrics.update("b", labels([0, 1, V]), labels([0, 1, 2]), scores=[0.6, 0.3, 0.1])
    image_level = metrics.image_level
    expected = {
        "map": (1 + 1 / 2) / 2,  # class 2 is only in "a", where "b" has the higher score
        "precision": (1 + 0) / 2,  # class 1: 2 of 2, class 2: never predicted; class 3 is nowhere
        "precision_micro": 2 / 3,
        "recall": (1 + 0) / 2,
        "recall_micro": 2 / 3,
        "f1": (1 + 0) / 2,
        "f1_micro": 2 * 2 / (3 + 3),
        "f1_of_means": 1 / 2,
    }
    assert image_level.summary() == pytest.approx(expected)
    # by threshold: class 1 in both, 2 in "b" alone, 3 in "a"
    by_threshold = image_level.summary(threshold=0.25)
    assert by_threshold["precision_micro"] == pytest.approx(2 / 4)
    assert by_threshold["recall"] == pytest.approx(1 / 2)
    assert metrics.summary()["image_map"] == pytest.approx(3 / 4)
    metrics.update("c", labels([0, 1]), labels([0, 1]))
    assert "map" not in image_level.summary()  # not of a part of the pictures
    with pytest.raises(WordmaskError, match="no scores"):
        image_level.summary(threshold=0.5)


# -- calibration ----------------------------------------------------------------------------------


def test_calibration_by_hand():
    calibration = Calibration(bins=2)
    target, prediction = labels([1, 0, 1, 1, V]), labels([1, 1, 1, 1, 1])
    confidence = np.array([[0.2, 0.4, 0.9, 1.0, 0.7]], np.float32)
    calibration.add(calibration.count(target, prediction, confidence))
    assert calibration.counts[:2].tolist() == [[2, 2], [1, 2]]
    mean, accuracy = calibration.curve()
    np.testing.assert_allclose(mean, [0.3, 0.95], atol=2e-5)
    np.testing.assert_allclose(accuracy, [0.5, 1])
    assert calibration.error() == pytest.approx((0.2 + 0.05) / 2, abs=2e-5)
    perfect = Calibration()
    perfect.add(perfect.count(target, np.where(target == V, 0, target), np.ones((1, 5))))
    assert perfect.error() == 0


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "prediction", "match"),
    [
        (labels([0, 4]), labels([0, 1]), "label 4 in a target; labels are 0 to 3"),
        (labels([0, 1]), labels([0, 4]), "label 4 in a prediction"),
        (labels([0, 1]), labels([0, V]), "label 65535 in a prediction"),
        (labels([0, 1]), labels([0], [1]), r"shape \(1, 2\) and a prediction of shape \(2, 1\)"),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), r"\(0, 3\)"),
        (np.zeros(3, int), np.zeros(3, int), r"\(3,\)"),
        (np.array([[0.0, 1.0]]), labels([0, 1]), "float64 labels as the target"),
        (labels([0, 1]), np.array([[-1, 0]]), "int64 labels as the prediction"),
    ],
)
def test_bad_maps_are_named_and_nothing_is_counted(target, prediction, match):
    metrics = Metrics(3)
    with pytest.raises(WordmaskError, match=match):
        metrics.update("a", target, prediction)
    assert not metrics.confusion.counts.any()
    assert metrics.confusion.images == len(metrics.per_picture.areas) == 0


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"scores": [0.5]}, r"scores of shape \(1,\)"),
        ({"scores": [0.5, 0.1, math.nan]}, "none NaN"),
        ({"confidence": np.ones((1, 2))}, r"shape \(1, 2\)"),
        ({"confidence": np.full((3, 3), 1.5)}, "outside 0 to 1"),
        ({"confidence": np.full((3, 3), np.nan)}, "or NaN"),
    ],
)
def test_bad_scores_and_confidences_are_named_and_nothing_is_counted(extra, match):
    metrics = Metrics(3)
    with pytest.raises(WordmaskError, match=match):
        metrics.update("a", TARGET, PREDICTION, **extra)
    assert len(metrics.per_picture.areas) == metrics.confusion.images == 0
    assert not metrics.calibration.counts.any()
    assert not metrics.boundary.areas.any()


def test_a_picture_counts_once():
    metrics = Metrics(3)
    metrics.update("a", TARGET, PREDICTION)
    before = metrics.summary()
    with pytest.raises(WordmaskError, match="'a' is counted already"):
        metrics.update("a", TARGET, PREDICTION)
    assert metrics.confusion.images == 1
    np.testing.assert_equal(metrics.summary(), before)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Confusion(0), "got 0 classes"),
        (lambda: Confusion(3, void="drop"), "unknown void 'drop'"),
        (lambda: Confusion(3, False, "background"), "without background"),
        (lambda: Confusion(3, False).update(TARGET, PREDICTION), "label 0 in a target without"),
        (lambda: Confusion(3).mean_iou("all"), "unknown mean over 'all'"),
        (lambda: Confusion(3).mean_accuracy("union"), "unknown mean over 'union'"),
        (lambda: Calibration(0), "got 0 bins"),
        (lambda: PerPicture(3).intervals(level=1), "got level 1"),
        (lambda: PerPicture(3).intervals(resamples=0), "0 resamples"),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(WordmaskError, match=match):
        call()
