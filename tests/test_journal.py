"""The journal: what is finished survives a kill, and lines of other settings are never taken."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waiting import soon
from wordmask.errors import WordmaskError
from wordmask.journal import SETTINGS, Journal, difference

VALUES = {"pixels": [1, 2], "name": "Bär 熊\n"}


def lines(folder: Path) -> list[Path]:
    return sorted(folder.glob("wordmask-*.jsonl"))


def test_what_is_appended_is_read_again(tmp_path):
    folder = tmp_path / "a" / "b"
    journal = Journal(folder, {"model": "m"})
    assert not journal.claimed
    assert list(journal) == []
    assert not folder.exists()
    journal.append("x", VALUES)
    journal.append("y", {})
    for one in (journal, Journal(folder, {"model": "m"})):
        assert list(one.keys()) == list(one) == ["x", "y"]
        assert "x" in one
        assert "z" not in one
        assert len(one) == 2
        assert one.read("x") == VALUES
        assert dict(one.items()) == {"x": VALUES, "y": {}}
        with pytest.raises(KeyError):
            one.read("z")
    assert Journal(folder, {"model": "m"}).claimed
    assert json.loads((folder / SETTINGS).read_text()) == {"model": "m"}


def test_the_last_line_of_a_key_counts(tmp_path):
    journal = Journal(tmp_path, {})
    for number in range(3):
        journal.append("x", {"number": number})
    assert journal.read("x") == Journal(tmp_path, {}).read("x") == {"number": 2}


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff.png")
    Journal(tmp_path, {"model": name}).append(name, {"picture": name})
    assert Journal(tmp_path, {"model": name}).read(name) == {"picture": name}


def test_begin_claims_the_folder_and_nothing_else(tmp_path):
    journal = Journal(tmp_path / "o", {"a": 1})
    journal.begin()
    journal.begin()
    assert os.listdir(tmp_path / "o") == [SETTINGS]


@given(st.data())
def test_a_file_cut_at_any_byte_loses_the_last_line_at_most(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    journal = Journal(folder, {})
    for number in range(4):
        journal.append(f"k{number}", {**VALUES, "number": number})
    (path,) = lines(folder)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    again = Journal(folder, {})
    kept = whole[:cut].count(b"\n")
    assert list(again) == [f"k{number}" for number in range(kept)]
    again.append("new", {"number": 9})
    for one in (again, Journal(folder, {})):
        assert {"new", *(f"k{number}" for number in range(kept))} <= set(one)
        assert one.read("new") == {"number": 9}
        assert all(one.read(f"k{n}")["number"] == n for n in range(kept))


@pytest.mark.parametrize("junk", [b"\0" * 50 + b"\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", b"\n"])
def test_lines_that_are_no_entries_are_passed_over(tmp_path, junk):
    journal = Journal(tmp_path, {})
    journal.append("x", VALUES)
    (path,) = lines(tmp_path)
    path.write_bytes(junk + path.read_bytes() + junk)
    journal = Journal(tmp_path, {})
    journal.append("y", VALUES)
    assert dict(Journal(tmp_path, {}).items()) == {"x": VALUES, "y": VALUES}


def test_dropped_items_are_to_be_done_again(tmp_path):
    for part in "01":
        journal = Journal(tmp_path, {}, part=part)
        for number in range(3):
            journal.append(f"{part}{number}", {"number": number})
        journal.append("both", {})
    journal.drop(["00", "11", "both", "elsewhere"])
    kept = {"01": 1, "02": 2, "10": 0, "12": 2}
    for one in (journal, Journal(tmp_path, {})):
        assert {key: values["number"] for key, values in one.items()} == kept
    journal.append("00", VALUES)
    assert Journal(tmp_path, {}).read("00") == VALUES


def test_parts_of_all_writers_are_read_whatever_their_number(tmp_path):
    parts = [Journal(tmp_path, {"a": 1}, part=str(rank)) for rank in range(4)]
    for rank, journal in enumerate(parts):
        journal.append(f"k{rank}", {"rank": rank})
    assert len(lines(tmp_path)) == 4
    assert parts[0].refresh() == ["k1", "k2", "k3"]
    assert parts[0].refresh() == []
    alone = Journal(tmp_path, {"a": 1})
    assert {key: values["rank"] for key, values in alone.items()} == {f"k{r}": r for r in range(4)}


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    writer, reader = Journal(tmp_path, {}), Journal(tmp_path, {}, part="1")
    writer.append("x", VALUES)
    (path,) = lines(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert reader.refresh() == []
    path.write_bytes(whole)
    assert reader.refresh() == ["x"]
    assert reader.read("x") == VALUES


def test_other_settings_are_refused_in_one_line(tmp_path):
    Journal(tmp_path, {"options": {"sigma": 5.0}, "model": "m"}).append("x", VALUES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(WordmaskError) as error:
        Journal(tmp_path, {"options": {"sigma": 3}, "model": "m"})
    assert str(error.value) == (
        f"{tmp_path} holds results of different settings: options.sigma (5.0 there, 3 now); "
        "choose another out folder (--out), or overwrite (--overwrite)"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_drops_what_other_settings_made_when_it_begins(tmp_path):
    Journal(tmp_path, {"a": 1}).append("x", VALUES)
    (tmp_path / "wordmask-notes.jsonl").write_text("somebody's own")
    journal = Journal(tmp_path, {"a": 2}, overwrite=True)
    assert list(journal) == []
    assert list(Journal(tmp_path, {"a": 1})) == ["x"]  # nothing was written yet
    journal.append("y", VALUES)
    assert list(Journal(tmp_path, {"a": 2})) == ["y"]
    assert list(Journal(tmp_path, {"a": 1}, overwrite=True)) == []
    assert list(Journal(tmp_path, {"a": 2}, overwrite=True)) == ["y"]  # the same settings
    assert (tmp_path / "wordmask-notes.jsonl").exists()


def test_settings_that_were_removed_by_hand_do_not_lend_lines_to_others(tmp_path):
    Journal(tmp_path, {"a": 1}).append("x", VALUES)
    (tmp_path / SETTINGS).unlink()
    journal = Journal(tmp_path, {"a": 2})
    journal.append("y", VALUES)
    assert list(Journal(tmp_path, {"a": 2})) == ["y"]


def test_a_folder_claimed_meanwhile_is_refused(tmp_path):
    journal = Journal(tmp_path, {"a": 1})
    Journal(tmp_path, {"a": 2}).begin()
    with pytest.raises(WordmaskError, match=r"settings: a \(2 there, 1 now\)"):
        journal.begin()


def test_unreadable_settings(tmp_path):
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(WordmaskError, match=r"cannot read the settings in \S+json; choose"):
        Journal(tmp_path, {})
    Journal(tmp_path, {}, overwrite=True).append("x", VALUES)
    assert list(Journal(tmp_path, {})) == ["x"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "o").touch()
    with pytest.raises(WordmaskError, match=r"o for results; it is a file, give a folder"):
        Journal(tmp_path / "o", {})
    with pytest.raises(WordmaskError, match=r"cannot make the folder \S+o/x"):
        Journal(tmp_path / "o" / "x", {}).begin()


@pytest.mark.parametrize(
    ("earlier", "now", "said"),
    [
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}}, "b.c[1] (2 there, 3 now)"),
        ({"a": 1}, {"a": 1, "z": 2}, "z (null there, 2 now)"),
        ({"a": [["x"]]}, {"a": [["x"], ["y"]]}, 'a ([["x"]] there, [["x"], ["y"]] now)'),
        ({"a": ["x" * 70]}, {"a": ["x" * 70, "y"]}, "a (1 of them there, 2 now)"),
        ([], {}, "form ([] there, {} now)"),
        ({"a": "b\nc"}, {"a": "d"}, "a (b c there, d now)"),
    ],
)
def test_the_first_difference(earlier, now, said):
    assert difference(earlier, now) == f"different settings: {said}"


WRITER = """
import sys, time
from wordmask.journal import Journal
journal = Journal(sys.argv[1], {"a": 1}, part=sys.argv[2])
left = int(sys.argv[3])
for number in range(20_000):
    if f"k{number}" not in journal:
        journal.append(f"k{number}", {"number": number, "filler": 500 * "x"})
        left -= 1
        if not left:
            time.sleep(600)  # it is killed before, or here where who kills it is slow
"""


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in lines(folder))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_at_any_moment_it_goes_on(tmp_path):
    draw = random.Random(5)
    for part in "010":
        command = [sys.executable, "-c", WRITER, str(tmp_path), part, "5000"]
        with subprocess.Popen(command) as running:
            enough = written(tmp_path) + draw.randrange(1, 500_000)
            soon(lambda enough=enough: written(tmp_path) >= enough)
            running.send_signal(signal.SIGKILL)
    broken = Journal(tmp_path, {"a": 1})
    assert 0 < len(broken) < 20_000
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), "2", "0"], check=True)
    whole = Journal(tmp_path, {"a": 1})
    assert all(whole.read(f"k{number}")["number"] == number for number in range(20_000))
    assert set(broken) <= set(whole)
