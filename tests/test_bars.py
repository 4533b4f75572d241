"""Progress as it is drawn on a terminal, and as lines where there is none."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest

from waiting import soon
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


class Clock:
    """The time of bars, which goes on when it is told."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("rich.console.monotonic", lambda: self.now)
        monkeypatch.setattr(bars, "time", SimpleNamespace(monotonic=lambda: self.now))


def plain(terminal: Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def test_what_counts_its_steps_gets_a_bar_with_rate_and_time_left(monkeypatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(bars, "SOON", 0.0)
    clock = Clock(monkeypatch)
    with bars.counting("comparing") as bar:
        bar.refresh()
        assert re.search(r"comparing ━+ 0 s", plain(terminal))
        for _ in steps("pictures", range(4)):
            clock.now += 0.03
            with stage("cliper"):
                bar.refresh()
    frames = plain(terminal)
    assert "comparing ━━━━━━━━━━━━━━━━━━━━ 0/4 pictures cliper" in frames
    assert re.search("━ 3/4 pictures, 25 pictures/s, 1 s left cliper", frames)


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
    monkeypatch.setattr(bars, "LINE_EVERY", 5.0)
    monkeypatch.setattr(bars.Bar, "_repeat", lambda *_: None)  # see the next test
    clock = Clock(monkeypatch)
    with bars.counting("comparing"):
        for _ in steps("pictures", range(6)):
            clock.now += 4
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "wordmask: comparing: 2/6 pictures, 4.0 s each, 16 s left"
    assert said[1] == "wordmask: comparing: 4/6 pictures, 4.0 s each, 8 s left"
    assert len(said) == 3


def test_a_line_comes_even_while_nothing_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(bars, "LINE_EVERY", 0.0)
    clock, said = Clock(monkeypatch), []

    def told() -> bool:
        said.append(capsys.readouterr().err)
        return "wordmask: loading owner/clip: 7 s\n" in "".join(said)

    with bars.counting("loading owner/clip"):
        clock.now += 7
        soon(told)


def test_the_first_picture_has_an_age(monkeypatch):
    """It may take minutes, in which no rate is known."""
    terminal, clock = on_terminal(monkeypatch), Clock(monkeypatch)
    with bars.Bar() as bar:
        task = bar.add_task("segmenting", total=2, unit="pictures")
        clock.now += 65
        bar.refresh()
        assert "0/2 pictures, 1:05" in plain(terminal)
        bar.advance(task)
        bar.refresh()
    assert "1/2 pictures, 1:05 each" in plain(terminal)


def test_an_earlier_run_is_not_part_of_the_rate(monkeypatch):
    clock = Clock(monkeypatch)
    bar = bars.Bar(quiet=True)
    task = bar.add_task("voc21", total=100, unit="pictures", already=90)
    clock.now += 10
    bar.update(task, completed=95)
    assert bars.facts(bar.tasks[0]) == "95/100 pictures, 2.0 s each, 10 s left"


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
