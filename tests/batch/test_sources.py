"""Where pictures come from: what each kind of source stands for, and what is said of bad ones."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from commands import picture
from wordmask import WordmaskError
from wordmask.batch import find_pictures
from wordmask.batch.sources import read_sources


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        picture(f"p/{i}.png", seed=i)


def listed(*inputs: str) -> list[tuple[str, str]]:
    return [(one.name, one.path.as_posix()) for one in find_pictures(inputs, Path("o"))]


def shard(path: str, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))


THREE = [("0", "p/0.png"), ("1", "p/1.png"), ("2", "p/2.png")]


@pytest.mark.parametrize("given", ["list.txt", "@list.txt", "@list"])
def test_text_lists(given):
    Path(given.removeprefix("@")).write_text("p/0.png\n\np/1.png\r\np/2.png")
    assert listed(given) == THREE


def test_a_list_beside_its_pictures():
    Path("p/list.txt").write_text("0.png\n1.png\n2.png\n")
    assert listed("p/list.txt") == THREE


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_stdin(monkeypatch, end):
    text = "".join(f"p/{i}.png{end}" for i in range(3)).encode()
    stdin = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(text))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert listed("-") == THREE


def test_csv_manifest():
    Path("m.csv").write_text('file_name,name,labels\np/0.png,a/x,cat; dog\n"p/1.png",,\n')
    first, second = find_pictures("m.csv", Path("o"))
    assert (first.name, first.path, first.image_labels) == ("a/x", Path("p/0.png"), ("cat", "dog"))
    assert (second.name, second.path, second.image_labels) == ("1", Path("p/1.png"), ())


def test_parquet_manifest():
    columns = {"path": ["0.png", "2.png"], "labels": [["cat"], None], "more": [1, 2]}
    pyarrow.parquet.write_table(pyarrow.table(columns), "p/m.parquet")
    first, second = find_pictures("p/m.parquet", Path("o"))
    assert (first.name, first.path, first.image_labels) == ("0", Path("p/0.png"), ("cat",))
    assert (second.name, second.path, second.image_labels) == ("2", Path("p/2.png"), None)


def test_shards_that_webdataset_wrote():
    webdataset = pytest.importorskip("webdataset")
    for number in range(2):
        with webdataset.TarWriter(f"s-{number:03d}.tar") as writer:
            for i in range(2):
                content = Path(f"p/{i + number}.png").read_bytes()
                writer.write({"__key__": f"{number}{i}", "png": content, "json": {"label": 3}})
    wanted = [("s-000/00", "s-000.tar/00.png"), ("s-000/01", "s-000.tar/01.png"),
              ("s-001/10", "s-001.tar/10.png"), ("s-001/11", "s-001.tar/11.png")]  # fmt: skip
    for given in ("s-{000..001}.tar", "s-*.tar"):
        assert listed(given) == wanted
    contents = [one.content() for one in find_pictures("s-001.tar", Path("o"))]
    assert contents == [Path("p/1.png").read_bytes(), Path("p/2.png").read_bytes()]


def test_members_that_are_no_pictures_are_passed_over():
    shard("a.tar", {"x/1.png": b"1", "x/1.json": b"{}", "x/.2.png": b"", "../up.png": b""})
    assert listed("a.tar") == [("a/x/1", "a.tar/x/1.png")]


def test_sources_may_be_mixed():
    Path("list.txt").write_text("p/1.png\n")
    shard("a.tar", {"1.png": b""})
    assert listed("p/0.png", "list.txt", "a.tar") == [
        ("0", "p/0.png"),
        ("1", "p/1.png"),
        ("a/1", "a.tar/1.png"),
    ]


def test_generators_give_pictures_one_by_one():
    asked = []

    def endless():
        yield "p/0.png"
        yield Path("p/1.png")
        yield np.zeros((4, 5, 3), np.uint8)
        yield "deep/one", Image.new("RGB", (5, 4))
        asked.append(True)

    stream = read_sources(endless(), Path("o"))
    assert [next(stream).name for _ in range(4)] == ["0", "1", "00000002", "deep/one"]
    assert not asked
    (alone,) = read_sources(np.zeros((4, 5, 3), np.uint8), Path("o"))
    assert alone.name == "00000000"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([3], "got int as picture 0; give a path, a PIL image"),
        (["p/0.png", ("0", "p/1.png")], "two pictures are named '0'"),
        ([("../x", "p/0.png")], "got '../x' as the name of picture 0"),
    ],
)
def test_bad_items_of_a_generator(given, said):
    with pytest.raises(WordmaskError, match=said):
        list(read_sources(iter(given), Path("o")))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("@none.txt", "cannot read the list none.txt: No such file"),
        ("empty.txt", "empty.txt names no picture; write one path a line"),
        ("none.csv", "cannot read the manifest none.csv: No such file"),
        ("odd.csv", "odd.csv has no column of paths (it has a, b); name one path, file"),
        ("short.csv", "line 3 of short.csv has 1 cells, its head 2"),
        ("bare.csv", "bare.csv names no picture; it has no rows"),
        ("gap.csv", "row 1 of gap.csv has no path in the column path"),
        ("up.csv", "got '../x' as the name of row 1 of up.csv"),
        ("twice.csv", "two pictures are named 'x'; give each its own name"),
        ("bad.parquet", "cannot read the manifest bad.parquet: "),
        ("odd.parquet", "odd.parquet has no column of paths (it has a)"),
        ("number.parquet", "row 1 of number.parquet has no path in the column path"),
        ("s-{000..002}.tar", "there is no shard s-000.tar and 2 more"),
        ("s-{5..2}.tar", "the range {5..2} is empty"),
        ("s-*.tar", "no shard matches the pattern s-*.tar"),
        ("bad.tar", "cannot read the shard bad.tar: "),
        ("cut.tar", "cannot read the shard cut.tar: unexpected end of data"),
        ("none.tar", "there is no shard none.tar"),
        ("text.tar", "the shard text.tar holds no picture"),
        ("s.tar.gz", "s.tar.gz is compressed; unpack it to .tar"),
        ("-", "stdin is a terminal; pipe paths into it"),
    ],
)
def test_sources_that_cannot_be_read(given, said, monkeypatch):
    texts = {"empty.txt": "\n", "odd.csv": "a,b\n1,2\n", "short.csv": "path,b\nx,y\nz\n",
             "bare.csv": "path\n", "gap.csv": "path,b\n,1\n", "up.csv": "path,name\nx,../x\n",
             "twice.csv": "path,name\np/0.png,x\np/1.png,X\n", "bad.parquet": "PAR1",
             "bad.tar": "no tar" * 200}  # fmt: skip
    for name, text in texts.items():
        Path(name).write_text(text)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), "odd.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"path": [1]}), "number.parquet")
    shard("text.tar", {"a.txt": b"a"})
    shard("cut.tar", {"a.png": Path("p/0.png").read_bytes() * 50})
    os.truncate("cut.tar", 1000)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(WordmaskError) as error:
        find_pictures(given, Path("o"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
