"""Time, memory and seams of a picture of any size, segmented in tiles.

    python benchmarks/large.py [--side 20000] [--tile 2048] [--overlap 128] [--short-side 256]
        [--joins crop,blend] [--method clearclip] [--shifted 40] [--picture seams.png]

A GeoTIFF of rendered scenes, made on the spot, is segmented with the built-in CLIP by eight words.
Memory is the peak of the resident set above that with the model loaded. Seams: how often
neighbouring pixels differ where tiles meet and elsewhere; and how often the labels differ from
those of tiles that are centred on a seam, by the distance from it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window

from memory import measure
from wordmask import Segmenter, segment_large
from wordmask.large.raster import gdal
from wordmask.large.tiles import Plan
from wordmask.toybox.scenes import render

WORDS = ["grass", "sand", "water", "brick", "snow", "wood", "gravel", "soil"]
SCENE = 1000  # pixels a side of the scenes, enlarged four times
BINS = 16  # pixels of distance


def make(path: Path, side: int) -> None:
    """Scenes beside and below each other, as an aerial picture of 25 cm a pixel."""
    profile = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_700_000, 0.25, 0.25)}
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True,
        compress="jpeg", photometric="ycbcr", **profile,
    ) as file:  # fmt: skip
        for number, (top, left) in enumerate(np.ndindex(*2 * [-(-side // SCENE)])):
            small = render(number, SCENE // 4).image
            pixels = np.asarray(
                Image.fromarray(small).resize((SCENE, SCENE), Image.Resampling.BICUBIC)
            )
            y, x = top * SCENE, left * SCENE
            part = pixels[: side - y, : side - x].transpose(2, 0, 1)
            file.write(part, window=Window(x, y, part.shape[2], part.shape[1]))


def against_shifted(
    segmenter: Segmenter, path: Path, out: Path, plan: Plan, tile: int, count: int
) -> list[float]:
    """Share of pixels that differ from a tile whose middle is a seam, by distance from the seam."""
    texts = segmenter.encode_text(WORDS, "none")
    middles = [(span.enter + span.full) // 2 for span in plan.columns[1:]]
    rng = np.random.default_rng(0)
    differ, pixels = (np.zeros(tile // 4 // BINS, np.int64) for _ in range(2))
    with rasterio.open(path) as picture, rasterio.open(out) as labels:
        for _ in range(count):
            row = plan.rows[rng.integers(len(plan.rows))]  # rows of tiles are kept: x alone shifts
            middle = int(rng.choice(middles))
            left = min(max(middle - tile // 2, 0), picture.width - tile)
            window = Window(left, row.start, tile, row.stop - row.start)
            rgb = picture.read(window=window).transpose(1, 2, 0)
            shifted = segmenter.score(np.ascontiguousarray(rgb), texts).labels()
            other = labels.read(1, window=window)
            inside = slice(row.full - row.start, row.fade - row.start)  # decided by this row alone
            changed = (shifted != other)[inside]
            distance = np.abs(np.arange(left, left + tile) + 0.5 - middle).astype(int) // BINS
            for k in range(len(differ)):
                columns = changed[:, distance == k]
                differ[k] += columns.sum()
                pixels[k] += columns.size
    return (differ / np.maximum(pixels, 1)).tolist()


def one(segmenter: Segmenter, path: Path, out: Path, join: str, given: argparse.Namespace) -> None:
    """Segment the picture, and print what it took."""
    ends: list[float] = []
    polygons = out.with_suffix(".gpkg") if given.polygons else None
    start = time.perf_counter()
    _, mib = measure(
        lambda: segment_large(
            segmenter,
            path,
            WORDS,
            out,
            background="none",
            tile=given.tile,
            overlap=given.overlap,
            join=join,
            polygons=polygons,
            progress=lambda done, total: ends.append(time.perf_counter()),
        )
    )
    seconds, tiling = time.perf_counter() - start, ends[-1] - start
    summary = json.loads(out.with_suffix(".json").read_text())
    tiles, seams = summary["tiles"], summary["seams"]
    print(
        f"{join}: {tiles} tiles, {tiling / tiles:.2f} s a tile, {seconds - tiling:.0f} s to write, "
        f"{seconds:.0f} s in all; {mib:.0f} MiB; GeoTIFF {out.stat().st_size / 1e6:.1f} MB"
    )
    if polygons:
        print(f"  {summary['polygons']} polygons, {polygons.stat().st_size / 1e6:.1f} MB")
    at, elsewhere = (100 * (seams[key] or 0) for key in ("at_seams", "elsewhere"))
    print(f"  neighbours differ: {at:.3f} % at seams, {elsewhere:.3f} % elsewhere", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--short-side", type=int, default=256)
    parser.add_argument("--joins", default="crop,blend")
    parser.add_argument("--method", default="clearclip")
    parser.add_argument("--shifted", type=int, default=40)
    parser.add_argument("--polygons", action="store_true")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    options = {"short_side": given.short_side}
    segmenter = Segmenter.from_pretrained("wordmask/tiny-clip", given.method, options=options)
    segmenter.score(render(0, 96).image, WORDS, "none")  # all that is loaded once
    curves: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.tif")
        with gdal():  # whose cache would else stay, and hide what the run takes
            seconds, _ = measure(lambda: make(path, given.side))
        print(f"{given.side} x {given.side} pixels made in {seconds:.0f} s", flush=True)
        for join in given.joins.split(","):
            out = Path(folder, f"{join}.tif")
            one(segmenter, path, out, join, given)
            if given.shifted:
                plan = Plan(given.side, given.side, given.tile, given.overlap, join == "blend")
                curves[join] = against_shifted(
                    segmenter, path, out, plan, given.tile, given.shifted
                )
                shown = " ".join(f"{100 * x:.2f}" for x in curves[join][:12])
                print(f"  % that differ from tiles centred on a seam, per {BINS} pixels: {shown}")
    if given.picture and curves:
        draw(curves, given)


def draw(curves: dict[str, list[float]], given: argparse.Namespace) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=130, layout="constrained")
    for (name, values), colour in zip(curves.items(), ("#d8284f", "#1a75f0"), strict=False):
        at = (np.arange(len(values)) + 0.5) * BINS
        axes.plot(at, 100 * np.array(values), color=colour, label=name, linewidth=2)
    axes.axvspan(0, given.overlap / 2, color="#00000010", label="overlap")
    axes.set(
        xlabel="distance from the seam, pixels",
        ylabel="labels that differ, %",
        title="Against tiles that are centred on the seam",
        ylim=(0, None),
        xlim=(0, None),
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(given.picture)


if __name__ == "__main__":
    main()
