"""What slow stages say while they run, to whoever listens."""

from __future__ import annotations

import threading

import pytest
import torch

from tiny import tiny_clip, tiny_sam, tiny_tokenizer
from wordmask import Segmenter
from wordmask.progress import listening, stage, steps
from wordmask.towers.transfer import Transfer


def heard(work) -> list[str]:
    """What was said while `work` ran, without repetitions."""
    said: list[str] = []
    with listening(said.append):
        work()
    return [text for i, text in enumerate(said) if not i or said[i - 1] != text]


def test_stages_inside_stages():
    def work():
        with stage("sam"):
            for _ in steps("points", [[0] * 16, [0] * 4], 20, len):
                pass
            assert list(steps("rows", iter("ab"))) == ["a", "b"]

    assert heard(work) == [
        "sam",
        "sam, points 0/20",
        "sam, points 16/20",
        "sam",
        "sam, rows 0",
        "sam, rows 1",
        "sam",
        "",
    ]


def test_a_single_step_says_nothing():
    assert heard(lambda: list(steps("windows", [0]))) == []
    assert heard(lambda: list(steps("windows", []))) == [""]


def test_errors_and_unfinished_steps_end_their_stages():
    def fail():
        with stage("outer"):
            for i in steps("inner", range(3)):
                1 / i

    def work():
        with pytest.raises(ZeroDivisionError):
            fail()
        for _ in steps("left", range(9)):
            break
        with stage("next"):
            pass

    said = heard(work)
    assert said[:2] == ["outer", "outer, inner 0/3"]
    assert said[-2:] == ["next", ""]


def test_nobody_listens():
    """The items themselves, also in other threads, and after listening."""
    said: list[str] = []
    with listening(said.append):
        thread = threading.Thread(target=lambda: list(steps("other", range(9))))
        thread.start()
        thread.join()
    items = [1, 2, 3]
    assert list(steps("rows", items)) == items
    assert said == []


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_vote_of_sam(low_memory):
    """The stages of a picture: the points done of all, and what is loaded."""
    segmenter = Segmenter.from_pretrained(
        tiny_clip(layers=2),
        "naclip",
        tokenizer=tiny_tokenizer(),
        options={"short_side": 56},
        refine=[("sam", {"points_per_side": 8})],
        networks={"sam": tiny_sam()},
        low_memory=low_memory,
    )
    pictures = [torch.zeros(40, 60, 3, dtype=torch.uint8).numpy()] * 2
    said = heard(lambda: segmenter(pictures, ["photo", "cat"], "none"))
    assert "naclip" in said
    prefix = "pictures 1/2, sam" if low_memory else "sam"
    points = [text for text in said if text.startswith(f"{prefix}, points")]
    assert points[:4] == [f"{prefix}, points {n}/64" for n in (0, 16, 32, 48)]
    assert any(text.endswith("loading sam") for text in said)
    assert not any("labels" in text for text in said)  # one block of rows
    assert said[-1] == ""


def test_words_and_rounds_of_car():
    segmenter = Segmenter.from_pretrained(
        tiny_clip(layers=2), "car", options={"short_side": 56}, tokenizer=tiny_tokenizer()
    )
    words = [f"cat {i}" for i in range(10)]
    picture = torch.rand(40, 60, 3).mul(255).byte().numpy()
    segmenter.text.cache_dir = None
    segmenter.text.batch_size = 4
    said = heard(lambda: segmenter(picture, words, "none"))
    assert "encoding words, prompts 4/10" in said
    assert "car, gradients 9/10" in said
    assert "car, round 1, words 8/10" in said
    assert said[-1] == ""


def test_downloads_say_how_many_megabytes_also_from_other_threads():
    def work():
        with stage("loading"), Transfer("title", {"model": 4_000_000}, shown=False) as one:
            bar = one.file("model")()
            other = threading.Thread(target=bar.update, args=(1_000_000,))
            other.start()
            other.join()

    assert heard(work) == ["loading", "loading, model: 1.0 MB of 4.0 MB", "loading", ""]
