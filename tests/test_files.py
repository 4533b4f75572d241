from __future__ import annotations

import os
from pathlib import Path

import pytest

from wordmask import files
from wordmask.errors import WordmaskError
from wordmask.files import default_cache_dir, write_atomically


def test_writes_what_is_written_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_replaces_an_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a longer old text")
    write_atomically(str(tmp_path / "a.txt"), lambda file: file.write(b"new"))
    assert (tmp_path / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_failure_keeps_the_earlier_file_and_leaves_no_other(
    tmp_path: Path, error: BaseException
) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")

    def write(file: object) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a.txt", write)
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "b.txt", write)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_nothing_shows_under_the_name_before_the_end(tmp_path: Path) -> None:
    def write(file: object) -> None:
        file.write(b"half")
        file.flush()
        assert not (tmp_path / "a.txt").exists()

    write_atomically(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").exists()


def test_the_file_gets_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "a.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path / "folder" / "a.txt")
    except OSError:
        pytest.skip("this system makes no links")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "a.txt").read_bytes() == b"new"


def test_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    name = "n" * 240 + ".png"
    write_atomically(tmp_path / name, lambda file: file.write(b"new"))
    assert os.listdir(tmp_path) == [name]


def test_missing_folder_and_folder_in_the_way_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(WordmaskError, match=r"cannot write .*a\.txt: No such file") as missing:
        write_atomically(tmp_path / "none" / "a.txt", lambda file: file.write(b""))
    with pytest.raises(WordmaskError, match="not a file") as folder:
        write_atomically(tmp_path, lambda file: file.write(b""))
    assert "\n" not in str(missing.value) + str(folder.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists(os.devnull) or os.name != "posix", reason="needs /dev/null")
def test_a_device_is_not_replaced() -> None:
    with pytest.raises(WordmaskError, match="not a file"):
        write_atomically(os.devnull, lambda file: file.write(b""))
    assert not os.path.isfile(os.devnull)


def test_a_full_disk_is_a_one_line_error(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(WordmaskError, match=r"cannot write .*: No space left on device$"):
        write_atomically(tmp_path / "a.txt", write)
    assert os.listdir(tmp_path) == []


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("WORDMASK_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_cache_dir() == tmp_path / ".cache" / "wordmask"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_cache_dir() == tmp_path / ".cache" / "wordmask"
    monkeypatch.setattr(files.sys, "platform", "win32")
    assert default_cache_dir() == tmp_path / "local" / "wordmask"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "wordmask"
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    assert not list(tmp_path.iterdir())
