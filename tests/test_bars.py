"""Progress as it is drawn on a terminal, and as lines where there is none."""

from __future__ import annotations

import io
import re
import time

import pytest

from wordmask import bars
from wordmask.progress import quietly, stage, steps
from wordmask.towers.transfer import Transfer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch) -> Terminal:
    """A terminal in place of stderr; no fixture, as pytest puts its own there for each test."""
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return shown


def plain(terminal: Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def test_what_counts_its_steps_gets_a_bar_with_rate_and_time_left(monkeypatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(bars, "SOON", 0.0)
    with bars.counting("comparing") as bar:
        bar.refresh()
        assert re.search(r"comparing ━+ 0 s", plain(terminal))
        for _ in steps("pictures", range(4)):
            time.sleep(0.02)
            with stage("cliper"):
                bar.refresh()
    frames = plain(terminal)
    assert "comparing ━━━━━━━━━━━━━━━━━━━━ 0/4 pictures cliper" in frames
    assert re.search(r"━ 3/4 pictures, \d+ pictures/s, 1 s left cliper", frames)


def test_an_inner_count_is_a_stage_and_the_next_count_starts_anew(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with bars.counting("loading") as bar:
        for _ in steps("tensors", range(2)):
            list(steps("rows", range(2)))
            for _ in steps("points", range(3)):
                bar.refresh()
        for _ in steps("encoding words, prompts", range(5)):
            bar.refresh()
    frames = plain(terminal)
    assert "1/2 tensors points 2/3" in frames
    assert "0/5 prompts encoding words" in frames


def test_lines_without_a_terminal_come_every_few_seconds(capsys, monkeypatch):
    monkeypatch.setattr(bars, "SOON", 0.0)
    monkeypatch.setattr(bars, "LINE_EVERY", 0.05)
    with bars.counting("comparing"):
        for _ in steps("pictures", range(3)):
            time.sleep(0.06)
    said = capsys.readouterr().err.splitlines()
    assert 2 <= len(said) <= 4
    assert all(line.startswith("wordmask: comparing: ") for line in said)
    assert re.fullmatch(r".*: 2/3 pictures, \d+ pictures/s, 1 s left", said[1])


def test_a_line_comes_even_while_nothing_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(bars, "LINE_EVERY", 0.0)
    with bars.counting("loading owner/clip"):
        time.sleep(0.7)
    assert "wordmask: loading owner/clip: 1 s\n" in capsys.readouterr().err


def test_the_first_picture_has_an_age(monkeypatch):
    """It may take minutes, in which no rate is known."""
    terminal = on_terminal(monkeypatch)
    with bars.Bar() as bar:
        task = bar.add_task("segmenting", total=2, unit="pictures")
        bar.tasks[0].start_time -= 65
        bar.refresh()
        assert "0/2 pictures, 1:05" in plain(terminal)
        bar.advance(task)
        bar.refresh()
    assert "1/2 pictures, 1:05 each" in plain(terminal)


def test_an_earlier_run_is_not_part_of_the_rate():
    bar = bars.Bar(quiet=True)
    task = bar.add_task("voc21", total=100, unit="pictures", already=90)
    bar.tasks[0].start_time = bar.get_time() - 10
    bar.update(task, completed=95)
    assert re.fullmatch(r"95/100 pictures, 2\.0 s each, 1[01] s left", bars.facts(bar.tasks[0]))


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(capsys, monkeypatch, terminal):
    shown = on_terminal(monkeypatch) if terminal else None
    monkeypatch.setattr(bars, "LINE_EVERY", 0.0)
    with quietly():
        with bars.counting("comparing"):
            list(steps("pictures", range(3)))
        with Transfer("fetching", {"a": 3}) as transfer:
            transfer.file("a")
            transfer.end_file()
    assert (shown.getvalue() if shown else capsys.readouterr().err) == ""


def test_results_do_not_end_up_in_the_bar(monkeypatch, capsys):
    """Where stdout is a pipe and stderr a terminal, what is printed stays on stdout."""
    terminal = on_terminal(monkeypatch)
    with bars.counting("drawing"):
        print("cat_attention.png")
    assert capsys.readouterr().out == "cat_attention.png\n"
    assert "attention" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (65, "1:05"), (7384, "2:03:04")],
)
def test_durations(seconds, text):
    assert bars.duration_text(seconds) == text
