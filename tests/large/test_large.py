"""`segment_large` on rasters made on the spot, read back by rasterio and pyogrio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
import torch  # noqa: E402
from affine import Affine  # noqa: E402
from PIL import Image  # noqa: E402
from rasterio.features import rasterize  # noqa: E402

from wordmask import Segmenter, WordmaskError, segment_large  # noqa: E402
from wordmask.cli import run  # noqa: E402
from wordmask.colours import palette  # noqa: E402
from wordmask.large import job, raster, vector  # noqa: E402
from wordmask.methods import create_method  # noqa: E402
from wordmask.towers.built_in import OPTIONS  # noqa: E402

NAMES = ("red", "green", "blue")
COLOURS = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)  # 0: none
UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000)
TURNED = Affine(3**0.5, 1, 500_000, 1, -(3**0.5), 5_700_000)  # by 30 degrees, pixels of 2 m


class ByColour:
    """A segmenter whose values are the nearness of a pixel's colour to that of each class."""

    low_memory = False

    def __init__(self) -> None:
        self.method, self.variant = create_method("clip")
        self.refiners = ()
        self.networks = SimpleNamespace(sources={})
        self.source, self.tower = "by colour", SimpleNamespace(dtype=torch.float32)
        self.seen: list[np.ndarray] = []

    def weights(self) -> str:
        return "none"

    def provenance(self) -> dict[str, Any]:
        return {"model": self.source}

    def encode_text(self, words: Any, background: Any) -> Any:
        return words

    def value(self, rgb: np.ndarray) -> torch.Tensor:
        far = [np.abs(rgb.astype(np.int16) - one).max(2) for one in COLOURS.astype(np.int16)]
        return 1 - torch.from_numpy(np.stack(far)).float() / 255

    def score(self, rgb: np.ndarray, texts: Any) -> Any:
        self.seen.append(rgb)
        value, block = self.value(rgb), 7
        blocks = [(a, min(a + block, len(rgb))) for a in range(0, len(rgb), block)]
        return SimpleNamespace(
            labels=lambda: value.argmax(0).numpy().astype(np.uint8),
            values=lambda: ((a, b, value[:, a:b].clone()) for a, b in blocks),
        )


def parts(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Labels 0 to 3 in blots."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 4, (-(-height // 9), -(-width // 7))).astype(np.uint8)
    return np.kron(small, np.ones((9, 7), np.uint8))[:height, :width]


def write(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    """A raster of bands (n, H, W)."""
    count, height, width = bands.shape
    extra = {key: profile.pop(key) for key in ("colorinterp", "mask") if key in profile}
    profile = {"driver": "GTiff", "transform": UTM, "crs": "EPSG:32632"} | profile
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", height=height, width=width, count=count, dtype=bands.dtype, **profile
        ) as file,
    ):
        file.write(bands)
        if "colorinterp" in extra:
            file.colorinterp = extra["colorinterp"]
        if "mask" in extra:
            file.write_mask(extra["mask"])
    return path


def rgb_of(labels: np.ndarray) -> np.ndarray:
    return COLOURS[labels].transpose(2, 0, 1)


def segment(path: Path, out: Path, **options: Any) -> tuple[dict[str, Any], np.ndarray, Any]:
    """The summary, the labels, and the profile of the result."""
    options = {"tile": 64, "overlap": 16} | options
    summary = segment_large(options.pop("segmenter", ByColour()), path, NAMES, out, **options)
    with rasterio.open(out) as file:
        return summary, file.read(1), file


@pytest.mark.parametrize("join", ["blend", "crop"])
@pytest.mark.parametrize("size", [(199, 211), (65, 64), (30, 500), (20, 33), (1, 129)])
def test_labels_are_those_of_one_piece(tmp_path, join, size):
    labels = parts(*size)
    path = write(tmp_path / "in.tif", rgb_of(labels), photometric="RGB")
    summary, found, _ = segment(path, tmp_path / "out.tif", join=join)
    assert np.array_equal(found, labels)
    assert [one["pixels"] for one in summary["classes"]] == [
        int((labels == i).sum()) for i in (1, 2, 3)
    ]
    assert summary == json.loads((tmp_path / "out.json").read_text())
    assert not (tmp_path / "out.tif.parts").exists()


def test_blending_is_the_weighted_sum(tmp_path):
    """Values that depend on the tile, mixed by ramps, against the sum over the whole picture."""
    from wordmask.large.job import _inside
    from wordmask.large.tiles import Plan

    class Moody(ByColour):
        def value(self, rgb: np.ndarray) -> torch.Tensor:
            rng = np.random.default_rng(len(self.seen))
            return torch.from_numpy(rng.random((4, *rgb.shape[:2]), np.float32))

    path = write(tmp_path / "in.tif", rgb_of(parts(150, 170)), photometric="RGB")
    _, found, _ = segment(path, tmp_path / "out.tif", segmenter=Moody())
    total = np.zeros((4, 150, 170))
    for number, tile in enumerate(Plan(150, 170, 64, 16, True), 1):
        (_, wy), (_, wx) = _inside(tile.y), _inside(tile.x)
        value = np.random.default_rng(number).random((4, 64, 64), np.float32)
        total[:, tile.y.start : tile.y.stop, tile.x.start : tile.x.stop] += (
            value * wy.numpy()[:, None] * wx.numpy()
        )
    assert np.mean(found == total.argmax(0)) > 0.9999  # float32 against float64


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32632", UTM),
        ("EPSG:4326", Affine(1e-4, 0, 8.5, 0, -1e-4, 60)),
        ("EPSG:32632", TURNED),
        (None, Affine.identity()),
    ],
    ids=["utm", "degrees", "turned", "none"],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_cloud_optimised_geotiff_in_the_same_place(tmp_path, crs, transform):
    from rio_cogeo.cogeo import cog_validate

    labels = parts(1100, 700)
    path = write(
        tmp_path / "in.tif", rgb_of(labels), photometric="RGB", crs=crs, transform=transform
    )
    out = tmp_path / "out.tif"
    summary, found, _ = segment(path, out, tile=512, overlap=64)
    assert np.array_equal(found, labels)
    valid, errors, warnings = cog_validate(out, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(out) as file:
        assert file.crs == (rasterio.CRS.from_string(crs) if crs else None)
        assert file.transform.almost_equals(transform)
        assert (file.nodata, file.dtypes, file.count) == (255, ("uint8",), 1)
        assert file.overviews(1)
        assert file.profile["tiled"]
        assert file.compression.name == "deflate"
        assert file.colormap(1)[1] == (*palette(3)[1].tolist(), 255)
        names = {"0": "unlabelled", "1": "red", "2": "green", "3": "blue"}
        assert json.loads(file.tags()["WORDMASK_CLASSES"]) == names
    assert summary["crs"] == crs
    assert summary["transform"] == pytest.approx(list(transform)[:6])


@pytest.mark.parametrize("copied", [False, True], ids=["windows", "copied"])
def test_pixels_without_data_stay_so(tmp_path, monkeypatch, copied):
    monkeypatch.setattr(raster, "BLOCK", 64 if copied else 512)
    labels = parts(150, 200)
    empty = np.zeros(labels.shape, bool)
    empty[:, 120:] = True  # whole tiles among them
    empty[40:50, 10:30] = True
    expected = np.where(empty, 255, labels)
    rgb = rgb_of(labels)
    alpha = np.where(empty, 0, 255).astype(np.uint8)
    by_value = np.where(empty, 7, rgb)
    numbers = np.where(empty, np.nan, rgb).astype(np.float32)
    for name, bands, profile in (
        ("alpha", np.concatenate([rgb, alpha[None]]), {"photometric": "RGB", "alpha": "yes"}),
        ("nodata", by_value, {"photometric": "RGB", "nodata": 7}),
        ("mask", rgb, {"photometric": "RGB", "mask": ~empty}),
        ("nan", numbers, {"photometric": "RGB"}),
    ):
        path = write(tmp_path / f"{name}.tif", bands, **profile)
        segmenter = ByColour()
        for join in ("blend", "crop"):
            summary, found, _ = segment(
                path,
                tmp_path / "out.tif",
                segmenter=segmenter,
                join=join,
                overwrite=True,
                scale="0,255",
            )
            assert np.array_equal(found, expected), (name, join)
        assert summary["nodata"] == {"value": 255, "pixels": int(empty.sum())}
        shares = [one["share"] for one in (*summary["classes"], summary["unlabelled"])]
        assert sum(shares) == pytest.approx(1)
        assert len(segmenter.seen) < 2 * summary["tiles"]  # empty tiles cost no pass


def test_bands_and_scale(tmp_path):
    labels = parts(100, 120)
    rgb = rgb_of(labels).astype(np.uint16) * 40
    bands = np.stack([rgb[2] * 0 + 9, rgb[2], rgb[1], rgb[0]])  # B, G, R are 2, 3, 4
    path = write(tmp_path / "in.tif", bands, photometric="MINISBLACK")
    with pytest.raises(WordmaskError, match=r"4 bands and does not say .* --bands 4,3,2"):
        segment(path, tmp_path / "out.tif")
    with pytest.raises(WordmaskError, match=r"got band 5; .* has 4 bands"):
        segment(path, tmp_path / "out.tif", bands="5,3,2")
    summary, found, _ = segment(path, tmp_path / "out.tif", bands="4,3,2", scale="0,10200")
    assert np.array_equal(found, labels)
    assert summary["limits"] == [[0, 10200]] * 3
    summary, found, _ = segment(path, tmp_path / "out.tif", bands=(4, 3, 2), overwrite=True)
    assert summary["limits"] == [[0, 10000]] * 3  # percentiles 2 and 98
    assert np.array_equal(found, labels)
    for wrong in ("4,3", "a", "0,1,2"):
        with pytest.raises(WordmaskError, match="give those of red, green and blue"):
            raster.parse_bands(wrong)
    for wrong in ("5", "9,3", "2%,120%", "a,b", "98%,2%", "0,inf"):
        with pytest.raises(WordmaskError, match="give the values that become black and white"):
            raster.parse_scale(wrong)


def test_what_the_method_sees(tmp_path):
    """One band is grey, 16 bits are scaled, palettes are colours, no data is the mean colour."""
    grey = np.arange(40 * 50, dtype=np.uint16).reshape(1, 40, 50)
    segmenter = ByColour()
    segment(
        write(tmp_path / "a.tif", grey), tmp_path / "oa.tif", segmenter=segmenter, scale="0,1999"
    )
    expected = np.rint(255 / 1999 * grey[0])
    assert np.abs(segmenter.seen[0] - expected[..., None]).max() <= 1
    table = Image.fromarray(parts(40, 50))
    table.putpalette(COLOURS.ravel().tolist())
    table.save(tmp_path / "b.png")
    _, found, _ = segment(tmp_path / "b.png", tmp_path / "ob.tif")
    assert np.array_equal(found, parts(40, 50))
    holed = np.full((3, 40, 50), 100, np.uint8)
    holed[:, :5] = 1
    segmenter = ByColour()
    path = write(tmp_path / "c.tif", holed, nodata=1, photometric="RGB")
    segment(path, tmp_path / "oc.tif", segmenter=segmenter)
    assert (segmenter.seen[0] == 100).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_plain_pictures(tmp_path, monkeypatch, suffix):
    labels = np.kron(parts(90, 84)[::9, ::7], np.ones((64, 64), np.uint8))[:600, :700]
    path = tmp_path / f"in.{suffix}"
    Image.fromarray(COLOURS[labels]).save(path, quality=100, subsampling=0)
    copies = []
    real = raster.Source.copied
    monkeypatch.setattr(raster.Source, "copied", lambda *a: copies.append(a) or real(*a))
    summary, found, _ = segment(path, tmp_path / "out.tif", tile=256, overlap=32)
    assert np.mean(found == labels) > 0.99
    assert summary["crs"] is None
    assert len(copies) == 1  # these are stored by rows: windows are read from a copy in blocks


def test_a_turned_photograph_is_refused(tmp_path):
    path, exif = tmp_path / "in.jpg", Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 50)).save(path, exif=exif)
    with pytest.raises(
        WordmaskError, match=r"stored turned \(EXIF orientation 6\); save it upright"
    ):
        segment(path, tmp_path / "out.tif")


def test_control_points_and_many_classes(tmp_path):
    from rasterio.control import GroundControlPoint

    points = [
        GroundControlPoint(y, x, 8 + x / 100, 50 - y / 99) for x, y in ((0, 0), (49, 0), (0, 39))
    ]
    path = write(
        tmp_path / "in.tif",
        rgb_of(parts(40, 50)),
        photometric="RGB",
        transform=None,
        crs="EPSG:4326",
        gcps=points,
    )
    names = [*NAMES, *map(str, range(300))]
    segment_large(ByColour(), path, names, tmp_path / "out.tif", tile=64, overlap=16)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.dtypes, file.nodata) == (("uint16",), 65535)
        assert np.array_equal(file.read(1), parts(40, 50))
        found, crs = file.gcps
        assert [(one.row, one.col, one.x) for one in found] == [(p.row, p.col, p.x) for p in points]
        assert crs == rasterio.CRS.from_epsg(4326)


def test_the_small_picture(tmp_path):
    labels = np.full((700, 2000), 2, np.uint8)
    path = write(tmp_path / "in.tif", rgb_of(labels), photometric="RGB")
    summary, _, _ = segment(path, tmp_path / "out.tif", tile=700, overlap=100)
    assert summary["tiles"] == 4
    image = np.asarray(Image.open(tmp_path / "out.jpg")).astype(int)
    assert image.shape[1] == 1600
    white = (image[1:6] > 140).all((0, 2))
    ticks = [int(np.abs(np.flatnonzero(white) - x).min()) for x in (452, 800, 1148)]
    assert white.sum() < 12
    assert max(ticks) <= 8


# -- polygons ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "place", "strip"),
    [
        ("gpkg", "utm", 1),
        ("gpkg", "degrees", 32 * 150),
        ("gpkg", "none", 2**24),
        ("geojson", "utm", 32 * 150),
        ("geojson", "turned", 1),
        ("geojson", "none", 1),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_polygons_are_the_labels(tmp_path, monkeypatch, suffix, place, strip):
    monkeypatch.setattr(raster, "STRIP", strip)  # so that parts are joined over several strips
    monkeypatch.setattr(vector, "AT_ONCE", 10)
    crs, transform = {
        "utm": ("EPSG:32632", UTM),
        "degrees": ("EPSG:4326", Affine(1e-4, 0, 8.5, 0, -1e-4, 60)),
        "turned": ("EPSG:32632", TURNED),
        "none": (None, Affine.identity()),
    }[place]
    labels = parts(131, 150)
    labels[5:120, 100] = 1  # over all strips
    labels[60:62] = 255
    labels[20:28, 3:40] = 2
    labels[22:26, 10:20] = 1  # a hole, and an island in it
    labels[23:25, 12:14] = 2
    rgb = np.concatenate([rgb_of(labels % 255), np.where(labels == 255, 0, 255)[None]])
    path = write(
        tmp_path / "in.tif",
        rgb.astype(np.uint8),
        photometric="RGB",
        alpha="yes",
        crs=crs,
        transform=transform,
    )
    file = tmp_path / f"parts.{suffix}"
    summary, found, _ = segment(path, tmp_path / "out.tif", tile=128, polygons=file)
    assert np.array_equal(found, labels)
    meta, _, wkb, columns = pyogrio.raw.read(file)
    fields = dict(zip(meta["fields"], columns, strict=True))
    polygons = shapely.from_wkb(wkb)
    assert len(polygons) == summary["polygons"]
    assert shapely.is_valid(polygons).all()
    pixels, valid = fields["pixels"], int((labels != 255).sum())
    for label, name in enumerate(NAMES, 1):
        own = fields["class"] == name
        assert (fields["label"][own] == label).all()
        assert pixels[own].sum() == (labels == label).sum()
    np.testing.assert_allclose(fields["share"], pixels / valid)
    # every connected part is one polygon, also over strips
    from scipy.ndimage import label as components

    assert len(polygons) == sum(components(labels == i)[1] for i in (1, 2, 3))
    back = polygons
    if crs:
        assert (
            meta["crs"] in ("EPSG:4326", "OGC:CRS84") if suffix == "geojson" else meta["crs"] == crs
        )
        source = "OGC:CRS84" if suffix == "geojson" else crs
        metres = {"utm": 0.25, "turned": 4, "degrees": 1e-4**2 * 111_412 * 55_800}[place]
        np.testing.assert_allclose(fields["area_m2"], pixels * metres, rtol=0.005)
        turn = ~transform

        def home(xy: np.ndarray) -> np.ndarray:
            from rasterio.warp import transform as warp

            x, y = map(np.array, warp(source, crs, xy[:, 0], xy[:, 1]))
            return np.stack([turn.a * x + turn.b * y + turn.c, turn.d * x + turn.e * y + turn.f], 1)

        back = shapely.transform(polygons, home)
    else:
        assert "area_m2" not in fields
    drawn = rasterize(zip(back, fields["label"], strict=True), labels.shape, dtype="uint8")
    assert np.array_equal(drawn, np.where(labels == 255, 0, labels))


def test_no_class_no_polygon(tmp_path):
    path = write(tmp_path / "in.tif", rgb_of(np.zeros((40, 50), np.uint8)), photometric="RGB")
    file = tmp_path / "parts.gpkg"
    summary, _, _ = segment(path, tmp_path / "out.tif", polygons=file)
    assert summary["polygons"] == 0
    assert pyogrio.read_info(file)["features"] == 0


# -- runs ----------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on(tmp_path):
    path = write(tmp_path / "in.tif", rgb_of(parts(199, 211)), photometric="RGB")
    segment(path, tmp_path / "whole.tif")
    tiles = 4 * 5

    def stop_at(wanted: int) -> Any:
        def report(done: int, total: int) -> None:
            assert total == tiles
            if done == wanted:
                raise KeyboardInterrupt

        return report

    out, first, last = tmp_path / "out.tif", ByColour(), ByColour()
    with pytest.raises(KeyboardInterrupt):
        segment(path, out, segmenter=first, progress=stop_at(7))
    assert not out.exists()
    with pytest.raises(WordmaskError, match=r"different settings: tile \(64 there, 48 now\)"):
        segment(path, out, tile=48)
    with pytest.raises(KeyboardInterrupt):
        segment(path, out, segmenter=first, progress=stop_at(13))
    for left in ("labels.tif", "cog.tif", "part.tif", ".0123.part"):  # half-written
        (tmp_path / "out.tif.parts" / left).write_bytes(b"II*")
    out.with_suffix(".json").write_text("")  # killed while results were put in place
    segment(path, out, segmenter=last)
    assert (len(first.seen), len(last.seen)) == (13, tiles - 13)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    with pytest.raises(WordmaskError, match="exists; choose another name, or overwrite"):
        segment(path, out)


KILLED = """
import os, random, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from test_large import UTM, parts, rgb_of, segment, write
torch.set_num_threads(1)
path, out = write(Path("in.tif"), rgb_of(parts(150, 130)), photometric="RGB"), Path("out.tif")
names = [".tif", ".gpkg", ".jpg"]
def work(to, kill=None):  # kill: before the n-th time that a file is renamed or removed
    seen = []
    def hook(event, arguments):
        if event in ("os.rename", "os.remove", "os.rmdir"):
            seen.append(event)
            if len(seen) == kill:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    segment(path, to, polygons=to.with_suffix(".gpkg"))
    return len(seen)
def child(kill):
    pid = os.fork()
    if not pid:
        work(out, kill)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL
steps = work(Path("whole.tif"))
moments = random.Random(0).sample(range(1, steps - 8), 8) + list(range(steps - 8, steps + 1))
for moment in moments:
    assert child(moment), moment
    if Path("out.tif.parts").exists():
        child(moment // 3)  # and once more
    if Path("out.tif.parts").exists():
        assert not child(None)
    for suffix in names:
        a, b = Path("whole" + suffix).read_bytes(), out.with_suffix(suffix).read_bytes()
        assert suffix == ".gpkg" or a == b, (moment, steps, suffix)
    for suffix in (*names, ".json"):
        out.with_suffix(suffix).unlink()
segment(path, out)  # and what a kill at the very end leaves is cleared by the next run
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_a_run_goes_on_to_the_same_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = {file.name for file in tmp_path.iterdir()}
    assert not [name for name in left if name.startswith(".") or "parts" in name]


def test_two_processes_do_not_share_what_is_unfinished(tmp_path):
    path = write(tmp_path / "in.tif", rgb_of(parts(199, 211)), photometric="RGB")
    refused = []

    def second(done: int, total: int) -> None:
        for more in ({}, {"tile": 48, "overwrite": True}):
            with pytest.raises(WordmaskError) as error:
                segment(path, tmp_path / "out.tif", **more)
            refused.append(str(error.value))

    segment(path, tmp_path / "whole.tif")
    segment(path, tmp_path / "out.tif", progress=second)
    assert "out.tif is being written by another process; wait for it, or " in refused[0]
    assert set(refused) == {refused[0]}
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_refused_before_any_work(tmp_path, monkeypatch):
    path = write(tmp_path / "in.tif", rgb_of(parts(40, 50)), photometric="RGB")
    out = tmp_path / "out.tif"
    for match, options in (
        ("way to join tiles", {"join": "glue"}),
        ("ending in .gpkg or .geojson", {"polygons": "a.shp"}),
        ("give at least 32", {"tile": 16}),
    ):
        with pytest.raises(WordmaskError, match=match):
            segment(path, out, **options)
    with pytest.raises(WordmaskError, match=r"ending in \.tif"):
        segment(path, tmp_path / "out.png")
    (tmp_path / "out.tif.parts").mkdir()
    (tmp_path / "out.tif.parts" / "mine.txt").touch()
    with pytest.raises(WordmaskError, match="holds other files; move it"):
        segment(path, out)
    Image.new("RGB", (40, 50)).save(tmp_path / "in.jpg")
    with pytest.raises(WordmaskError, match=r"in\.jpg is the picture; choose another name"):
        segment(tmp_path / "in.jpg", tmp_path / "in.tif", overwrite=True)
    monkeypatch.setattr(raster, "MOST_BLOCK", 100)
    with pytest.raises(
        WordmaskError, match=r"stored in blocks of 50 x 40 pixels; store it in tiles"
    ):
        segment(path, tmp_path / "other.tif")
    with pytest.raises(WordmaskError, match="there is no such file"):
        segment(tmp_path / "none.tif", out)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(WordmaskError, match="not recognized as being in a supported file format"):
        segment(tmp_path / "text.tif", out)


def test_what_is_in_memory_does_not_depend_on_the_picture(tmp_path, monkeypatch):
    """The largest array of pixels that is read, and of values that wait, for growing pictures."""
    most: dict[str, int] = {}

    def watch(name: str, real: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            result = real(*given, **options)
            size = sum(one.nbytes for one in (*given, result) if isinstance(one, np.ndarray))
            most[name] = max(most.get(name, 0), size)
            return result

        return call

    real_open = rasterio.open

    class Watched:
        def __init__(self, file: Any):
            self.file = file
            for name in ("read", "write", "read_masks"):
                if hasattr(file, name):
                    setattr(self, name, watch(name, getattr(file, name)))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

    monkeypatch.setattr(raster, "STRIP", 2**15)
    monkeypatch.setattr(job, "LONGEST", 64)
    monkeypatch.setattr(np, "save", watch("save", np.save))
    monkeypatch.setattr(np, "load", watch("load", np.load))
    found = []
    for side in (150, 300, 600):
        most.clear()
        path = write(tmp_path / f"{side}.tif", rgb_of(parts(side, side)), tiled=True, blockxsize=64,
                     blockysize=64, photometric="RGB")  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(rasterio, "open", lambda *a, **k: Watched(real_open(*a, **k)))
            segment_large(ByColour(), path, NAMES, tmp_path / f"o{side}.tif", tile=64, overlap=16)
        found.append(dict(most))
    assert found[0]["read"] <= 2**15 + 150
    for one in found[1:]:
        for name, size in one.items():
            assert size <= max(found[0][name], 2**15 + 600), (name, found)


# -- real methods --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["clip", "cliper"])
@pytest.mark.parametrize("background", ["none", "auto", "threshold:0.2", "complement:2"])
def test_values_decide_as_labels_do(method, background):
    from wordmask.toybox.scenes import render
    from wordmask.vocabulary import Background

    segmenter = Segmenter.from_pretrained("wordmask/tiny-clip", method, options={"short_side": 64})
    words = ["grass", "sand", ["red plain", "crimson"]]
    scored = segmenter.score(render(3, 64).image, words, Background.parse(background))
    values = torch.cat([block for _, _, block in scored.values()], 1)
    assert values.shape == (4, 64, 64)
    assert np.mean(values.argmax(0).numpy() == scored.labels()) > 0.999


def test_methods_that_do_not_decide_by_pixel(tmp_path):
    path = write(tmp_path / "in.tif", rgb_of(parts(96, 96)), photometric="RGB")
    segmenter = Segmenter.from_pretrained("wordmask/tiny-clip", "cliptrase")
    with pytest.raises(WordmaskError, match=r"cliptrase .* crop them \(--join crop\)"):
        segment(path, tmp_path / "out.tif", segmenter=segmenter)
    segment(path, tmp_path / "out.tif", segmenter=segmenter, join="crop", overwrite=True)


def test_the_command(tmp_path, capsys):
    from wordmask.toybox.scenes import render

    path = write(tmp_path / "in.tif", render(3, 192).image.transpose(2, 0, 1), photometric="RGB")
    out = tmp_path / "out.tif"
    base = ["large", str(path), "-c", "grass; sand; water", "--model", "wordmask/tiny-clip"]
    given = ["-m", "clip", "--short-side", "64", "--tile", "96", "--overlap", "32"]
    polygons = ["--polygons", str(tmp_path / "out.geojson")]
    assert run([*base, *given, "--out", str(out), *polygons]) == 0
    text = capsys.readouterr().out
    assert "192 x 192 pixels, 9 tiles in" in text
    assert "seams: neighbouring pixels differ at" in text
    assert (tmp_path / "out.geojson").exists()
    assert run([*base, *given, "--out", str(out)]) == 2
    assert "exists; choose another name, or overwrite" in capsys.readouterr().err


def test_the_command_takes_what_a_built_in_network_brings(tmp_path, capsys):
    """As `segment` does: its normalisation and templates, and tiles as they are."""
    path = write(tmp_path / "in.tif", np.zeros((3, 64, 64), np.uint8), photometric="RGB")
    out = tmp_path / "out.tif"
    given = ["-c", "grass; sand", "-m", "clip", "--model", "wordmask/tiny-clip", "-b", "none"]
    assert run(["large", str(path), *given, "--out", str(out)]) == 0
    options = json.loads(out.with_suffix(".json").read_text())["provenance"]["options"]
    assert options.items() >= OPTIONS.items()


def test_segment_names_it(tmp_path, capsys):
    Image.new("RGB", (40, 50)).save(tmp_path / "in.png")
    given = ["segment", str(tmp_path / "in.png"), "-c", "a", "--max-pixels", "100"]
    assert run(given) == 2
    assert "`wordmask large` takes pictures of any size" in capsys.readouterr().err
