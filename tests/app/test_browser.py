"""The page in a real browser: what a visitor does, from an upload to files.

Parts of an answer are drawn one after the other, so that what is looked at is waited for.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from waiting import soon
from wordmask import drawing
from wordmask.toybox import render

WORDS = ["brick, bricks", "water", "red striped", "yellow plain"]
SEED = 4 * 10**9 + 81  # of the demo's scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(render(SEED, 144, things=(4, 5)).image).save(path)
    return path


def type_words(page, words, box="#wm-words") -> None:
    field = page.locator(f"{box} input")
    for word in words:
        field.fill(word)
        field.press("Enter")


def start(page, scene, words=WORDS) -> None:
    """Upload, type, choose that every pixel gets a word, and segment."""
    upload(page, scene)
    type_words(page, words)
    page.get_by_label("every pixel gets a word").first.check()
    segment(page)


def upload(page, file) -> None:
    page.locator("#wm-picture input[type=file]").set_input_files(file)
    page.wait_for_selector("#wm-picture img")


def segment(page) -> None:
    """Press Segment and wait for the result."""
    line = "#wm-status .wm-line"  # progress is shown in the same box, beside it
    before = text(page, line)
    page.click("#wm-run")
    soon(lambda: text(page, line) not in ("", before))
    page.wait_for_selector("#wm-overlay img")


def text(page, selector: str) -> str:
    """The text there, "" if there is nothing."""
    return " ".join(page.locator(selector).all_inner_texts())


def picture(page, selector="#wm-overlay img") -> np.ndarray:
    """The pixels of a picture on the page."""
    answer = page.request.get(page.get_attribute(selector, "src"))
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGBA"))


def legend(page) -> dict[str, tuple[str, str]]:
    """Colour and share by class."""
    rows = page.locator("#wm-legend tbody tr").evaluate_all(
        "all => all.map(row => [row.querySelector('.wm-chip').style.background,"
        " ...[...row.querySelectorAll('td')].map(cell => cell.innerText)])"
    )
    return {row[2]: (row[0], row[4]) for row in rows}


def told(page, words: str) -> None:
    """A line of the page says this, and the rest of the page is as it was."""
    toast = page.locator(".toast-body", has_text=re.compile(words))
    toast.first.wait_for()
    assert "\n\n" not in toast.first.inner_text()


def test_from_upload_to_files(visit, scene, tmp_path):
    page = visit()
    start(page, scene)
    understood = page.locator("#wm-understood")
    understood.get_by_text("every pixel").wait_for()
    wanted = "4 classes: brick (also: bricks); water; red striped; yellow plain"
    soon(lambda: wanted in understood.inner_text())

    colours = drawing.palette(4).tolist()
    names = ["brick", "water", "red striped", "yellow plain"]
    soon(lambda: set(legend(page)) == set(names))
    found = legend(page)
    assert [found[name][0] for name in names] == [
        f"rgb({', '.join(map(str, colour))})" for colour in colours[1:]
    ]
    page.locator("#wm-alpha input[type=number]").fill("1")

    def painted() -> set[tuple[int, ...]]:
        return {tuple(x) for x in picture(page)[::4, ::4, :3].reshape(-1, 3).tolist()}

    soon(lambda: {tuple(x) for x in colours[1:4]} <= painted())  # the overlay's are the legend's

    page.get_by_role("tab", name="Files").click()
    page.click("#wm-make")
    link = page.locator("#wm-files a[href*='labels']").first
    with page.expect_download() as downloading:
        link.click()
    labels = np.asarray(Image.open(downloading.value.path()))
    assert labels.shape == (144, 144)
    assert f"{round(100 * (labels == 1).mean())} %" == found["brick"][1]
    soon(lambda: all(name in text(page, "#wm-files") for name in ("overlay", "json")))


def test_other_words_use_the_encoding_again(visit, scene, server):
    page = visit()
    start(page, scene)
    passes = server.passes()
    assert passes
    before = picture(page)
    page.locator("#wm-words .wm-tag button").first.click()  # brick goes
    type_words(page, ["wood, planks"])
    segment(page)
    assert "encoding kept" in text(page, "#wm-status .wm-line")
    soon(lambda: set(legend(page)) == {"water", "red striped", "yellow plain", "wood"})
    soon(lambda: not np.array_equal(picture(page), before))
    assert server.passes() == passes


def test_pointer_names_the_class_and_a_click_shows_the_place(visit, scene):
    page = visit()
    start(page, scene)
    page.locator("#wm-overlay").scroll_into_view_if_needed()

    def point() -> str:
        """Move onto the yellow disc, and say what is shown there."""
        box = page.locator("#wm-overlay img").bounding_box()
        at = box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"]
        page.mouse.move(at[0] + 1, at[1])
        page.mouse.move(*at)
        return text(page, ".wm-tip:visible")

    soon(lambda: point() == "yellow plain")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#wm-scores table")
    soon(lambda: "the label is yellow plain" in text(page, "#wm-scores"))
    page.wait_for_selector("#wm-inside img")
    assert picture(page, "#wm-inside img").shape[1] > 900  # photo, before, after


def test_side_by_side(visit, scene):
    page = visit()
    start(page, scene)
    page.get_by_role("tab", name="Compare").click()
    page.click("#wm-compare")
    page.locator("#wm-compared b").first.wait_for()
    said = text(page, "#wm-compared")
    assert "left: cliper" in said
    assert "right: clip:paper" in said
    page.locator("#wm-slider img").nth(1).wait_for()
    sides = page.locator("#wm-slider img")
    soon(lambda: len(set(sides.evaluate_all("all => all.map(one => one.src)"))) == 2)


def test_what_cannot_be_used_is_said_in_a_line(visit, scene, tmp_path):
    page = visit()
    page.click("#wm-run")
    told(page, "no picture yet")

    upload(page, scene)
    page.click("#wm-run")
    told(page, "no words yet")

    type_words(page, ["cat", "cat"])
    page.wait_for_selector("#wm-understood .wm-bad")
    soon(lambda: "'cat' is in class 1" in text(page, "#wm-understood"))

    page.reload()
    page.wait_for_selector("#wm-run")
    pdf = tmp_path / "paper.pdf"
    pdf.write_bytes(b"%PDF-1.7\n%%EOF")
    page.locator("#wm-picture input[type=file]").set_input_files(pdf)
    page.locator(".toast-body").first.wait_for()
    assert not page.locator("#wm-picture img").count()

    huge = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(huge)
    page.locator("#wm-picture input[type=file]").set_input_files(huge)
    told(
        page, "huge.png: 9000 x 9000 is 81000000 pixels, the limit is 50000000; .* make it smaller"
    )
    heavy = tmp_path / "heavy.png"
    with heavy.open("wb") as file:
        file.truncate(70_000_000)
    page.locator("#wm-picture input[type=file]").set_input_files(heavy)
    told(page, "maximum allowed size")


def test_two_visitors_do_not_meet(visit, scene, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(render(SEED + 5, 96, things=(2, 3)).image).save(other)
    first, second = visit(), visit()
    upload(first, scene)
    upload(second, other)
    for page, words in ((first, ["brick", "water"]), (second, ["grass", "sand", "snow"])):
        type_words(page, words)
    first.click("#wm-run")
    segment(second)
    soon(lambda: set(legend(first)) - {"unlabelled"} == {"brick", "water"})
    soon(lambda: set(legend(second)) - {"unlabelled"} == {"grass", "sand", "snow"})
    first.wait_for_selector("#wm-overlay img")
    assert not np.array_equal(picture(first), picture(second))
    third = visit()
    assert not third.locator("#wm-legend table").count()


def test_examples_expert_settings_and_a_narrow_screen(visit):
    page = visit(390, 844)
    page.locator("#wm-examples button").nth(1).click()
    page.wait_for_selector("#wm-legend table")
    page.wait_for_selector("#wm-status .wm-line")
    soon(lambda: page.evaluate("document.documentElement.scrollWidth") <= 390)
    lines = page.locator("#wm-legend .wm-name").evaluate_all("all => all.map(x => x.innerText)")
    assert "striped" in " ".join(lines) or "plain" in " ".join(lines)
    rows = page.locator("#wm-legend tbody tr")
    tall = "all => Math.max(...all.map(x => x.offsetHeight))"
    soon(lambda: rows.evaluate_all(tall) < 60)  # a word is not broken into letters
    page.get_by_role("button", name="Expert settings").click()
    page.locator("#wm-method input").click()
    page.get_by_role("option", name=re.compile("GEM")).click()
    page.locator("#wm-expert .wm-about", has_text="GEM").first.wait_for()
    options = page.locator("#wm-expert button", has_text=re.compile("^Options")).first

    def opened() -> bool:  # the method's options may still come, and are closed then
        options.click()
        page.wait_for_timeout(1000)
        return page.get_by_label("temperature").first.is_visible()

    soon(opened)
    soon(lambda: page.evaluate("document.documentElement.scrollWidth") <= 390)
    segment(page)
    assert "gem" in text(page, "#wm-status .wm-line")


def test_a_folder_fills_and_is_run_again(visit, tmp_path, server):
    for i in range(3):
        Image.fromarray(render(SEED + i, 96, things=(2, 3)).image).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    page = visit()
    page.get_by_role("tab", name="A folder").click()
    page.locator("#wm-folder input, #wm-folder textarea").first.fill(str(tmp_path))
    type_words(page, ["brick", "water", "grass"], "#wm-f-words")
    page.locator("#wm-out input, #wm-out textarea").first.fill(str(tmp_path / "masks"))
    page.click("#wm-run-folder")
    status = page.locator("#wm-folder-status")
    status.locator("b", has_text="4 of 4").wait_for()
    soon(lambda: "1 left out" in status.inner_text())
    page.wait_for_function("document.querySelectorAll('#wm-grid img').length == 3")
    assert len(list((tmp_path / "masks").glob("*_labels.png"))) == 3
    passes = server.passes()
    before = (tmp_path / "masks/0_labels.png").read_bytes()

    page.locator("#wm-f-words .wm-tag button").first.click()  # brick goes
    type_words(page, ["wood, planks"], "#wm-f-words")
    understood = page.locator("#wm-f-understood")
    understood.get_by_text("water; grass; wood (also: planks)").wait_for()
    page.click("#wm-run-folder")
    page.wait_for_function(
        "!document.querySelector('#wm-grid').innerText.includes('brick')"
        " && document.querySelectorAll('#wm-grid img').length == 3"
    )
    status.locator("b", has_text="4 of 4").wait_for()
    soon(lambda: (tmp_path / "masks/0_labels.png").read_bytes() != before)
    assert server.passes() == passes


def test_a_network_that_cannot_be_loaded_leaves_the_one_before(visit):
    page = visit()
    page.get_by_role("button", name="Expert settings").click()
    box = page.locator("#wm-model input")
    box.fill("nobody/nothing")
    box.press("Enter")
    told(page, "cannot load 'nobody/nothing'")
    page.wait_for_function(
        "document.querySelector('#wm-model input').value == 'wordmask/tiny-clip'"
    )
    soon(lambda: "rendered scenes only" in text(page, "#wm-network"))
