# ruff: noqa: E501
"""Tables of the papers as data: what they published, and which run of ours stands beside it.

A table is written as text. Columns are `dataset` or `dataset:metric`, or a bare metric that no run
of ours gives. A row is `label | run | backbone | numbers`: the run is what `wordmask evaluate` was
asked for, an entry and the settings set by hand (`cliper+diffusion short_side=224`), several of
them parted by ` or `; `bg.KEY` holds on sets with a background alone, `DATASET.KEY` on one. A `-` is what the paper leaves out, or a row that no run of ours gives.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wordmask.evaluation.protocols import Entry, write
from wordmask.methods import METHODS

WITH_BACKGROUND = frozenset({"voc21", "context60", "coco_object"})
METRICS = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy_all": "mean accuracy",
    "frequency_weighted_iou": "fwIoU",
    "image_map": "mAP",
    "image_f1": "F1",
    "image_precision": "P",
    "image_recall": "R",
}


@dataclass(frozen=True)
class Column:
    """One column: what was measured (a key of METRICS) on which data set."""

    dataset: str
    metric: str = "miou"


@dataclass(frozen=True)
class Run:
    """What must be evaluated for a row: an entry and settings set by hand."""

    entry: str
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Run:
        """Read `cliper+diffusion short_side=224 voc21.window=336`."""
        entry, *settings = text.split()
        pairs = (setting.partition("=") for setting in settings)
        return cls(entry, tuple((key, value) for key, _, value in pairs))

    def on(self, dataset: str) -> dict[str, str]:
        """The settings on one data set."""
        here: dict[str, str] = {}
        for key, value in self.settings:
            where, _, rest = key.partition(".")
            if where not in (*WITH_BACKGROUND, "bg", "voc20"):
                here[key] = value
            elif where == dataset or (where == "bg" and dataset in WITH_BACKGROUND):
                here[rest] = value
        return here


@dataclass(frozen=True)
class Row:
    """One row: its label, the runs that give it, its backbone, and the paper's numbers."""

    label: str
    runs: tuple[Run, ...]
    backbone: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Table:
    """One table of a paper; `id` is what files are named after."""

    id: str
    source: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Number:
    """A published number: in percent, of a metric (a key of METRICS), and where it stands."""

    source: str
    metric: str
    value: float


def _table(id: str, source: str, title: str, columns: str, rows: str, note: str = "") -> Table:
    heads = [name.partition(":") for name in columns.split()]
    read = []
    for line in rows.strip().splitlines():
        label, runs, backbone, numbers = (part.strip() for part in line.split("|"))
        values = tuple(None if x == "-" else float(x) for x in numbers.split())
        if len(values) != len(heads):
            raise ValueError(f"{id}: {label} has {len(values)} numbers, not {len(heads)}")
        parsed = () if runs == "-" else tuple(Run.parse(run) for run in runs.split(" or "))
        read.append(Row(label, parsed, backbone, values))
    made = tuple(Column(name, metric or "miou") for name, _, metric in heads)
    return Table(id, source, title, made, tuple(read), note)


_EIGHT = "voc21 context60 coco_object voc20 context59 coco_stuff"
_THREE = "voc21 context60 coco_object"
_FIVE = "voc20 context59 coco_stuff cityscapes ade150"
_NINE = "coco_object voc21 context60 coco_stuff voc20 context59 context459 ade150 ade847"
_CROP = (
    "short_side=none window=0 names=cliptrase definition=present bg.background=names:* "
    "bg.void=background"
)
_SMALL = "view=crop:224 eps=0.7 min_samples=3"


def _by_metric(datasets: str, *metrics: str) -> str:
    return " ".join(f"{name}:{metric}" for name in datasets.split() for metric in metrics)


# CLIPtrase's Tables 6 and 7, turned: a row of theirs is a data set, here it is four columns.
_FOUR = ("pixel_accuracy", "mean_accuracy_all", "frequency_weighted_iou", "miou")

TABLES: tuple[Table, ...] = (
    _table(
        "cliper-1",
        "CLIPer, Table 1",
        "Open-vocabulary segmentation, mIoU",
        f"{_EIGHT} ade150",
        """
SegCLIP | - | ViT-B/16 | 52.6 24.7 26.5 - - - -
ViewCo | - | ViT-S/16 | 52.4 23.0 23.5 - - - -
OVSegmentor | - | ViT-B/16 | 53.8 20.4 25.1 - - - -
CoCu | - | ViT-S/16 | 51.4 23.6 22.7 - - 22.1 12.3
SAM-CLIP | - | ViT-B/16 | 60.6 23.2 - - - - 17.1
GroupViT | - | ViT-S/16 | 50.4 18.7 27.5 79.7 23.4 15.3 9.2
TCL | - | ViT-B/16 | 51.2 24.3 30.4 77.5 30.3 19.6 14.9
CLIP-DINOiser | - | ViT-B/16 | 62.2 32.4 35.0 80.2 35.9 24.6 20.0
CLIP | clip | ViT-B/16 | 16.4 8.4 5.6 41.9 9.2 4.4 2.9
CLIPSurgery | clip_surgery | ViT-B/16 | - 29.3 - - - 21.9 -
MaskCLIP | maskclip | ViT-B/16 | 38.8 23.6 20.6 74.9 26.4 16.4 9.8
SCLIP | sclip | ViT-B/16 | 59.1 30.4 30.5 80.4 34.2 22.4 16.1
ClearCLIP | clearclip | ViT-B/16 | 51.8 32.6 33.0 80.9 35.9 23.9 16.7
ProxyCLIP | proxyclip:official or proxyclip | ViT-B/16 | 61.3 35.3 37.5 80.3 39.1 26.5 20.2
CLIPer* | cliper:official-v1 or cliper:paper | ViT-B/16 | 60.1 34.8 36.0 84.0 38.5 25.3 19.8
CLIPer | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-B/16 | 65.9 37.6 39.0 85.2 41.7 27.5 21.4
CLIP | clip | ViT-L/14 | 8.2 4.1 2.7 15.6 4.4 2.4 1.7
MaskCLIP | maskclip | ViT-L/14 | 23.3 11.7 7.2 29.4 12.4 8.8 7.2
SCLIP | sclip | ViT-L/14 | 43.5 22.3 25.0 69.1 25.2 17.6 10.9
ClearCLIP | clearclip | ViT-L/14 | 46.1 26.7 30.1 80.0 29.6 19.9 15.0
CaR (ViT-L/14 looks at the masks) | car or car:context or car:object or car:ade | ViT-B/16 | 67.6 30.5 36.6 91.4 39.5 - 17.7
ProxyCLIP | proxyclip:official or proxyclip | ViT-L/14 | 60.6 34.5 39.2 83.2 37.7 25.6 22.6
ProxyCLIP | proxyclip:official or proxyclip | OpenCLIP ViT-H/14 | 65.0 35.4 38.6 83.3 39.6 26.8 24.2
CLIPer* | cliper:official-v1 or cliper:paper | ViT-L/14 | 61.2 34.3 39.6 88.2 39.8 25.8 21.8
CLIPer | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 69.8 38.0 43.3 90.0 43.6 28.7 24.4
""",
        "* without the fine-grained compensation. CLIPer* with ViT-L/14 on ADE is 21.8 here and 22.8 "
        "in Table 12 of the same paper. CLIPSurgery's 29.3 stands under Context in the text at "
        "hand; CLIPtrase lists it under Context59.",
    ),
    _table(
        "cliper-2",
        "CLIPer, Table 2",
        "Which classes are in the picture, image-level",
        _by_metric(_THREE, "image_map", "image_f1", "image_precision", "image_recall"),
        """
CLIP | clip | ViT-L/14 | 90.2 75.3 79.7 71.3 59.8 54.2 55.1 53.2 66.3 53.7 57.9 50.0
MaskCLIP | maskclip | ViT-L/14 | 87.3 63.2 56.3 72.1 58.6 48.9 48.5 49.3 67.4 48.2 47.6 52.4
SCLIP | sclip | ViT-L/14 | 92.7 74.5 81.0 69.1 63.2 57.7 57.6 57.7 71.4 55.4 64.5 48.6
ClearCLIP | clearclip | ViT-L/14 | 92.1 74.0 80.5 68.4 63.0 57.4 52.3 63.6 70.4 54.3 61.7 48.5
ProxyCLIP | proxyclip:official or proxyclip | ViT-L/14 | 94.0 75.5 86.6 67.0 64.6 57.3 52.6 62.8 73.4 57.4 65.0 51.3
CLIPer | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 94.6 86.0 86.7 85.3 68.9 63.3 63.4 64.3 77.9 62.3 69.7 56.3
""",
        "The paper does not say at which score a class counts as present.",
    ),
    _table(
        "cliper-3",
        "CLIPer, Table 3",
        "Pseudo-masks from image-level labels, training sets of VOC and COCO, mIoU",
        "voc_train coco_train",
        """
IRN | - | - | 66.5 42.4
AdvCAM | - | - | 55.6 35.8
MCTformer | - | - | 61.7 -
ToCo | - | - | 72.2 -
CLIMS | - | - | 56.6 -
CLIP-ES | - | - | 70.8 39.7
DiffSegmenter | - | - | 70.5 -
T2M | - | - | 72.7 43.7
iSeg | - | - | 75.2 45.5
CLIPer | - | - | 76.9 47.3
""",
        "The authors released no code for it. `wordmask segment --labels` makes such masks.",
    ),
    _table(
        "cliper-4",
        "CLIPer, Table 4",
        "Accuracy and time on VOC",
        "milliseconds voc21",
        """
ClearCLIP | clearclip | ViT-B/16 | 22 51.8
ProxyCLIP | proxyclip:official or proxyclip | ViT-B/16 | 82 61.3
CLIPer* | cliper:official-v1 or cliper:paper | ViT-B/16 | 14 60.1
CLIPer | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-B/16 | 158 65.9
ClearCLIP | clearclip | ViT-L/14 | 68 46.1
ProxyCLIP | proxyclip:official or proxyclip | ViT-L/14 | 105 60.6
CLIPer* | cliper:official-v1 or cliper:paper | ViT-L/14 | 47 61.2
CLIPer | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 192 69.8
""",
        "Times are for one RTX 3090; ours come from `wordmask bench`.",
    ),
    _table(
        "cliper-5",
        "CLIPer, Table 5",
        "Early-layer fusion (ELF) and fine-grained compensation (FGC), mIoU",
        _THREE,
        """
neither | cliper:official-v1 attention=vv early_embeddings=false | ViT-L/14 | 51.2 26.5 32.3
ELF | cliper:official-v1 or cliper:paper | ViT-L/14 | 61.2 34.3 39.6
FGC | cliper:official-v1+diffusion attention=vv early_embeddings=false | ViT-L/14 | 62.8 29.7 36.4
ELF and FGC | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 69.8 38.0 43.3
""",
    ),
    _table(
        "cliper-6",
        "CLIPer, Table 6",
        "What replaces the last attention, and which embeddings it mixes, mIoU",
        _THREE,
        """
query-query | cliper:official-v1 attention=qq early_embeddings=false | ViT-L/14 | 50.1 22.5 28.7
key-key | cliper:official-v1 attention=kk early_embeddings=false | ViT-L/14 | 44.8 25.4 27.0
value-value | cliper:official-v1 attention=vv early_embeddings=false | ViT-L/14 | 51.2 26.5 32.3
identity | cliper:official-v1 attention=identity early_embeddings=false | ViT-L/14 | 40.1 22.0 25.7
early attention | cliper:official-v1 early_embeddings=false | ViT-L/14 | 58.6 33.1 38.4
query-query, early embeddings | cliper:official-v1 attention=qq | ViT-L/14 | 55.7 26.9 32.0
key-key, early embeddings | cliper:official-v1 attention=kk | ViT-L/14 | 53.2 29.5 33.1
value-value, early embeddings | cliper:official-v1 attention=vv | ViT-L/14 | 54.8 29.4 34.4
identity, early embeddings | cliper:official-v1 attention=identity | ViT-L/14 | 43.3 24.8 27.8
early attention, early embeddings | cliper:official-v1 or cliper:paper | ViT-L/14 | 61.2 34.3 39.6
""",
    ),
    _table(
        "cliper-7",
        "CLIPer, Table 7",
        "How the heads of the diffusion model are joined, mIoU",
        _THREE,
        """
single | cliper:official-v1+diffusion diffusion.fusion=single | ViT-L/14 | 65.3 36.1 41.2
mean | cliper:official-v1+diffusion diffusion.fusion=mean | ViT-L/14 | 64.9 36.1 41.0
multiplication | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 69.8 38.0 43.3
""",
        "Single is the best head of ten, chosen on the same pictures.",
    ),
    _table(
        "cliper-9",
        "CLIPer, Table 9",
        "Other networks for the compensation, mIoU",
        _THREE,
        """
DINO-B/8 | cliper:official-v1+vfm vfm=facebook/dino-vitb8 | ViT-L/14 | 68.2 35.8 41.9
DINO-B/16 | cliper:official-v1+vfm vfm=facebook/dino-vitb16 | ViT-L/14 | 66.1 36.7 42.5
DINOv2-B/14 | cliper:official-v1+vfm vfm=facebook/dinov2-base | ViT-L/14 | 64.6 35.2 42.3
DINOv2-L/14 | cliper:official-v1+vfm vfm=facebook/dinov2-large | ViT-L/14 | 64.8 35.1 42.4
DINOv2-G/14 | cliper:official-v1+vfm vfm=facebook/dinov2-giant | ViT-L/14 | 65.0 35.1 42.3
SD 1.4 | cliper:official-v1+diffusion diffusion=CompVis/stable-diffusion-v1-4 | ViT-L/14 | 68.8 37.1 41.3
SD 1.5 | cliper:official-v1+diffusion diffusion=stable-diffusion-v1-5/stable-diffusion-v1-5 | ViT-L/14 | 69.1 37.2 41.5
SD 2.1 | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 69.8 38.0 43.3
""",
    ),
    _table(
        "cliper-10",
        "CLIPer, Table 10",
        "Time step of the diffusion model (of 50), mIoU",
        _THREE,
        """
41 | cliper:official-v1+diffusion diffusion.time_step=41 | ViT-L/14 | 69.8 38.0 43.0
43 | cliper:official-v1+diffusion diffusion.time_step=43 | ViT-L/14 | 70.0 38.0 43.1
45 | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 69.8 38.0 43.3
47 | cliper:official-v1+diffusion diffusion.time_step=47 | ViT-L/14 | 70.3 38.0 43.2
49 | cliper:official-v1+diffusion diffusion.time_step=49 | ViT-L/14 | 70.4 38.0 43.2
""",
    ),
    _table(
        "cliper-11",
        "CLIPer, Table 11",
        "Short side of the picture, mIoU",
        _THREE,
        """
224 | cliper:official-v1+diffusion short_side=224 | ViT-L/14 | 68.3 37.7 43.5
336 | cliper:official-v1+diffusion or cliper:paper+diffusion | ViT-L/14 | 69.8 38.0 43.3
448 | cliper:official-v1+diffusion short_side=448 | ViT-L/14 | 69.9 37.8 42.4
""",
    ),
    _table(
        "cliper-12",
        "CLIPer, Table 12",
        "With and without sliding windows, mIoU",
        f"{_EIGHT} cityscapes ade150",
        """
CLIPer* | cliper:official-v1 | ViT-B/16 | 60.1 34.8 36.0 84.0 38.5 25.3 36.0 19.8
CLIPer*, windows | cliper window=224 stride=112 voc21.window=336 voc20.window=336 | ViT-B/16 | 62.1 35.7 37.5 85.0 39.6 27.6 37.0 20.6
CLIPer | cliper:official-v1+diffusion | ViT-B/16 | 65.9 37.6 39.0 85.2 41.7 27.5 38.3 21.4
CLIPer, windows | cliper+diffusion window=224 stride=112 voc21.window=336 voc20.window=336 | ViT-B/16 | 66.5 38.3 40.0 86.0 42.4 28.6 38.7 22.0
CLIPer* | cliper:official-v1 | ViT-L/14 | 61.2 34.3 39.6 88.2 39.8 25.8 37.9 22.8
CLIPer*, windows | cliper window=224 stride=112 voc21.window=336 voc20.window=336 context60.score_threshold=0.2 context60.background=threshold:0.2:* coco_object.score_threshold=0.4 coco_object.background=threshold:0.4:* | ViT-L/14 | 64.0 35.7 41.4 89.0 40.9 27.1 39.4 22.9
CLIPer | cliper:official-v1+diffusion | ViT-L/14 | 69.8 38.0 43.3 90.0 43.6 28.7 41.6 24.4
CLIPer, windows | cliper+diffusion window=224 stride=112 voc21.window=336 voc20.window=336 context60.score_threshold=0.2 context60.background=threshold:0.2:* coco_object.score_threshold=0.4 coco_object.background=threshold:0.4:* | ViT-L/14 | 72.2 39.5 44.7 89.8 44.6 30.4 42.5 25.0
""",
        "The rows without windows are the first generation of the code, those with windows the "
        "second. Windows are 336 on VOC and 224 elsewhere; with them the released thresholds of "
        "ViT-L/14 change on Context (score_threshold and background 0.2) and Object (0.4).",
    ),
    _table(
        "cliper-readme",
        "CLIPer, README of the released code (second generation)",
        "Without windows, mIoU",
        f"{_EIGHT} ade150 cityscapes",
        """
CLIPer* | cliper | ViT-B/16 | 60.7 34.7 36.3 84.3 38.4 25.4 19.8 35.9
CLIPer | cliper+diffusion | ViT-B/16 | 66.4 37.5 39.2 85.5 41.6 27.6 21.5 37.0
CLIPer* | cliper | ViT-L/14 | 62.5 34.8 40.4 88.7 39.6 26.3 22.1 37.9
CLIPer | cliper+diffusion | ViT-L/14 | 71.6 39.0 44.4 90.3 44.0 29.7 24.5 41.6
""",
    ),
    _table(
        "cliptrase-1",
        "CLIPtrase, Table 1",
        "Nine data sets, mIoU",
        _NINE,
        f"""
GroupViT | - | - | 27.5 52.3 18.7 15.3 79.7 23.4 - 10.4 -
MaskCLIP | - | - | 20.6 43.4 23.2 16.7 74.9 26.4 - 11.9 -
TCL | - | - | 30.4 51.2 24.3 19.6 77.5 30.3 - 14.9 -
CAT-Seg | - | - | - 78.3 - - 93.7 57.5 16.6 27.2 8.4
DeOP | - | - | - - - - 91.7 48.8 9.4 22.9 7.1
OVSeg | - | - | - - - - 92.6 53.3 11 24.8 7.1
SAN | - | - | - - - - 94 53.8 12.6 27.5 10.1
CLIP | clip view=crop:336 {_CROP} | ViT-B/16 | 12.63 17.31 8.91 4.70 41.06 9.82 1.88 2.30 0.79
CLIP-Surgery | - | ViT-B/16 | - - - 21.9 - 29.3 - - -
SCLIP | sclip view=crop:336 {_CROP} | ViT-B/16 | 40.43 51.79 29.00 21.61 79.12 32.59 8.97 14.76 5.28
CLIPtrase | cliptrase | ViT-B/16 | 44.84 53.04 30.79 24.06 81.20 34.92 9.95 17.04 5.89
""",
        "Scored on centre crops, void as background where there is one. The paper's text gives "
        "10.11 for ADE with all classes, which Table 7 lists under PC459.",
    ),
    _table(
        "cliptrase-2",
        "CLIPtrase, Table 2",
        "Ablations, mIoU (turned: a row is a column of the paper)",
        "coco_stuff voc20 context59 ade150",
        f"""
CLIP | clip view=crop:224 {_CROP} | ViT-B/16 | 4.70 41.06 9.82 2.30
semantic correlation recovery | - | ViT-B/16 | 21.82 77.58 32.55 15.79
and patch clustering | cliptrase {_SMALL} denoising=none | ViT-B/16 | 22.46 80.43 33.21 16.00
and denoising | cliptrase {_SMALL} | ViT-B/16 | 22.84 80.95 33.83 16.35
inner product | cliptrase {_SMALL} correlation=inner | ViT-B/16 | 12.64 63.55 19.94 7.49
cosine | cliptrase {_SMALL} | ViT-B/16 | 22.84 80.95 33.83 16.35
clusters of features | cliptrase {_SMALL} clusters=features | ViT-B/16 | 20.44 74.58 32.42 15.01
clusters of correlation | cliptrase {_SMALL} | ViT-B/16 | 22.84 80.95 33.83 16.35
size 224 | cliptrase {_SMALL} | ViT-B/16 | 22.84 80.95 33.83 16.35
size 336 | cliptrase | ViT-B/16 | 24.06 81.20 34.92 17.04
block 9 | cliptrase {_SMALL} block=-4 | ViT-B/16 | 0.47 13.65 1.75 0.41
block 10 | cliptrase {_SMALL} block=-3 | ViT-B/16 | 1.50 11.83 4.94 1.74
block 11 | cliptrase {_SMALL} block=-2 | ViT-B/16 | 7.75 40.83 15.78 4.08
block 12 | cliptrase {_SMALL} | ViT-B/16 | 22.84 80.95 33.83 16.35
""",
        "The CLIP row repeats the numbers of Table 1, which were made at 336.",
    ),
    _table(
        "cliptrase-3",
        "CLIPtrase, Table 3",
        "With SAM in place of the clustering's masks, mIoU",
        _NINE,
        f"""
CLIP | clip view=crop:336 {_CROP} | ViT-B/16 | 12.63 17.31 8.91 4.70 41.06 9.82 1.88 2.30 0.79
SCR, clustering, denoising | cliptrase | ViT-B/16 | 44.84 53.04 30.79 24.06 81.20 34.92 9.95 17.04 5.89
SCR, denoising, SAM | cliptrase masks=sam | ViT-B/16 | 44.23 57.06 31.97 24.75 82.25 36.44 10.58 17.22 5.97
""",
        "The released code has no SAM.",
    ),
    _table(
        "cliptrase-4",
        "CLIPtrase, Table 4",
        "Forms of the correlation at 224, mIoU",
        "voc20 ade150 coco_stuff context59",
        f"""
without | - | ViT-B/16 | 67.77 3.01 5.40 10.85
of a patch with itself | - | ViT-B/16 | 62.69 11.55 16.40 25.11
inner product | - | ViT-B/16 | 75.61 15.58 21.39 32.13
cosine | - | ViT-B/16 | 77.58 15.79 21.82 32.55
cosine inside true regions | - | ViT-B/16 | 77.71 16.50 22.57 33.89
CLIPtrase, inner product | cliptrase {_SMALL} correlation=inner | ViT-B/16 | 63.55 7.49 12.64 19.94
CLIPtrase, cosine | cliptrase {_SMALL} | ViT-B/16 | 80.95 16.35 22.84 33.83
""",
    ),
    _table(
        "cliptrase-5",
        "CLIPtrase, Table 5",
        "Clusters of another network's features at 224, mIoU",
        "voc20 ade150 coco_stuff context59",
        f"""
with DINOv2 | cliptrase {_SMALL} clusters=vfm | ViT-B/16 | 80.23 15.79 21.82 32.55
CLIPtrase | cliptrase {_SMALL} | ViT-B/16 | 80.95 16.35 22.84 33.83
""",
        "Three of the four numbers of the first row repeat the cosine row of Table 4.",
    ),
    _table(
        "cliptrase-6",
        "CLIPtrase, Table 6",
        "Four metrics at 224 (turned: a row of the paper is four columns)",
        _by_metric(_NINE, *_FOUR),
        f"""
CLIP | clip view=crop:224 {_CROP} | ViT-B/16 | 23.45 20.58 14.39 12.98 42.21 47.21 30.47 17.54 21.84 21.22 11.02 8.80 10.85 12.02 5.66 4.68 58.50 58.35 44.02 41.88 24.60 21.78 13.29 9.70 16.94 4.02 9.31 1.92 5.20 7.61 2.59 2.25 2.69 3.13 1.21 0.76
SCLIP | sclip view=crop:224 {_CROP} | ViT-B/16 | 49.05 59.43 37.38 40.68 77.52 83.27 66.46 49.54 49.24 51.55 35.04 28.09 35.24 40.02 24.42 21.00 87.51 89.92 79.21 77.58 55.69 52.58 42.13 31.58 41.15 18.63 32.72 8.48 33.00 34.43 23.44 14.46 20.06 16.46 14.55 5.43
CLIPtrase | cliptrase {_SMALL} | ViT-B/16 | 50.08 62.50 38.19 43.56 78.63 84.11 67.67 50.88 52.14 56.08 37.61 29.87 38.90 44.47 26.87 22.84 89.68 91.40 82.49 80.95 58.94 57.08 45.28 33.83 44.18 21.53 35.22 9.36 38.57 39.17 27.96 16.35 25.45 18.78 18.99 6.31
""",
    ),
    _table(
        "cliptrase-7",
        "CLIPtrase, Table 7",
        "Four metrics at 336 (turned: a row of the paper is four columns)",
        _by_metric(_NINE, *_FOUR),
        f"""
CLIP | clip view=crop:336 {_CROP} | ViT-B/16 | 22.53 19.85 13.55 12.63 43.16 45.97 31.39 17.31 21.84 21.25 11.20 8.91 11.11 11.95 5.82 4.70 57.12 57.92 42.60 41.06 24.53 21.81 13.42 9.82 16.94 3.94 9.50 1.88 5.64 7.65 2.89 2.3 2.96 3.04 1.39 0.79
SCLIP | sclip view=crop:336 {_CROP} | ViT-B/16 | 48.34 57.62 36.79 40.43 79.41 82.66 68.64 51.79 49.95 51.45 35.88 29.00 35.97 39.51 25.08 21.61 87.03 90.97 78.48 79.12 56.50 52.49 43.08 32.59 42.07 18.43 33.73 8.97 33.84 32.28 24.27 14.76 21.33 15.3 15.9 5.28
CLIPtrase | cliptrase | ViT-B/16 | 50.01 62.55 38.24 44.84 79.93 85.24 69.10 53.04 53.21 56.43 38.76 30.79 40.14 45.09 27.96 24.06 89.51 91.77 82.15 81.20 60.15 57.47 46.64 34.92 45.77 20.72 36.67 10.11 39.92 37.75 29.17 17.04 26.73 17.99 20.3 5.89
""",
    ),
    _table(
        "cliptrase-8",
        "CLIPtrase, Table 8",
        "Unsupervised segmentation, mIoU",
        "coco27 cityscapes27",
        """
PiCIE | - | - | 13.8 12.3
STEGO | - | - | 24.5 21.0
HP | - | - | 24.6 18.4
SmooSeg | - | - | 26.7 18.4
CLIPtrase | cliptrase | ViT-B/16 | 30.8 20.0
""",
        "How the paper used the classes' names here is not said.",
    ),
    _table(
        "proxyclip-1",
        "ProxyCLIP, supplement, Table 1",
        "Cost of a picture of 336 x 336 on an RTX 3090, half precision",
        "parameters_million images_per_second memory_mib gflops",
        """
CLIP | - | ViT-B/16 | 142.7 72.5 3540 41.7
MaskCLIP | - | ViT-B/16 | 142.7 74.1 3540 41.6
GEM | - | ViT-B/16 | 142.7 55.9 3716 51.5
ProxyCLIP, DINO-B/16 | - | ViT-B/16 | 224.5 52.9 3640 81.1
ProxyCLIP, DINO-B/8 | - | ViT-B/16 | 224.5 26.9 3926 253.3
""",
        "Ours come from `wordmask bench`.",
    ),
    _table(
        "proxyclip-2",
        "ProxyCLIP, supplement, Table 2",
        "A fixed threshold in place of the adaptive mask, COCO-Stuff, mIoU (turned)",
        "coco_stuff",
        "\n".join(
            f"{name}, {alpha if alpha == 'adaptive' else 'alpha ' + alpha} | "
            f"{'proxyclip:official' if alpha == 'adaptive' else 'proxyclip:hard-masking'} vfm={model}"
            f"{'' if alpha == 'adaptive' else ' threshold=' + alpha} | ViT-B/16 | {value}"
            for name, model, values in (
                ("MAE", "facebook/vit-mae-base", (15.2, 16.9, 19.8, 23.0, 23.3, 23.1)),
                ("SAM", "facebook/sam-vit-base", (12.6, 12.6, 14.0, 21.4, 25.2, 25.0)),
                (
                    "DINOv2",
                    "facebook/dinov2-with-registers-base",
                    (15.5, 22.4, 25.2, 25.1, 23.7, 25.4),
                ),
                ("DINO", "facebook/dino-vitb8", (15.5, 22.2, 25.8, 24.4, 22.0, 26.5)),
            )
            for alpha, value in zip(
                ("0.0", "0.2", "0.4", "0.6", "0.8", "adaptive"), values, strict=True
            )
        ),
    ),
    _table(
        "proxyclip-3",
        "ProxyCLIP, supplement, Table 3",
        "CLIP's own embeddings in place of the other network's, mIoU",
        f"{_EIGHT} cityscapes ade150",
        """
q-k | proxyclip:official attention=qk | ViT-B/16 | 34.0 18.2 20.6 75.3 20.8 13.6 15.7 10.3
q-q | proxyclip:official attention=qq | ViT-B/16 | 55.2 31.3 33.7 77.7 35.1 23.5 31.6 17.8
k-k | proxyclip:official attention=kk | ViT-B/16 | 55.7 30.6 33.9 77.8 34.6 23.3 31.6 17.9
proxy | proxyclip:official or proxyclip | ViT-B/16 | 61.3 35.3 37.5 80.3 39.1 26.5 38.1 20.2
""",
    ),
    _table(
        "proxyclip-4",
        "ProxyCLIP, supplement, Table 4",
        "Many classes, mIoU",
        "ade847 context459",
        """
ODISE | - | - | 11.1 14.5
SAN | - | - | 12.4 15.7
X-Decoder | - | - | 9.2 16.1
OVSeg | - | - | 9.0 12.4
MaskCLIP (ICML 2023) | - | - | 8.2 10.0
DeOP | - | - | 7.1 9.4
MasQCLIP | - | - | 10.7 18.2
GKC | - | - | 3.5 7.1
MAFT | - | - | 12.1 15.7
HIPIE | - | - | 9.7 14.4
TCL | - | - | 4.9 5.3
CLIP-DINOiser | - | - | 7.1 8.4
CLIP | clip | ViT-B/16 | 0.8 1.3
MaskCLIP (ECCV 2022) | maskclip | ViT-B/16 | 3.6 4.6
SCLIP | sclip | ViT-B/16 | 4.9 6.3
ProxyCLIP | proxyclip:official or proxyclip | ViT-B/16 | 11.1 9.9
""",
    ),
    _table(
        "clearclip-2",
        "ClearCLIP, supplement, Table 2",
        "Without residual and feed-forward network in other methods and models, mIoU",
        _FIVE,
        """
CLIP | clip | ViT-B/16 | 41.8 9.2 4.4 5.5 2.1
+ClearCLIP | clearclip | ViT-B/16 | 80.9 35.9 23.9 30.0 16.7
BLIP | clip | BLIP ViT-B/16 | 37.3 7.8 5.4 4.3 2.0
+ClearCLIP | clearclip | BLIP ViT-B/16 | 73.5 31.4 21.3 23.8 13.5
OpenCLIP | clip | OpenCLIP ViT-B/16 | 47.2 9.0 5.0 5.1 2.9
+ClearCLIP | clearclip | OpenCLIP ViT-B/16 | 81.4 34.1 23.1 31.8 18.9
MetaCLIP | clip | MetaCLIP ViT-B/16 | 35.4 8.1 4.3 5.0 2.2
+ClearCLIP | clearclip | MetaCLIP ViT-B/16 | 78.3 34.8 23.5 27.9 17.4
MaskCLIP | maskclip | ViT-B/16 | 74.9 26.4 16.4 12.6 9.8
+ClearCLIP | maskclip:clearclip | ViT-B/16 | 61.4 28.3 18.4 24.7 13.6
SCLIP | sclip | ViT-B/16 | 78.2 33.0 21.1 29.1 14.6
+ClearCLIP | sclip:clearclip | ViT-B/16 | 77.9 35.6 23.6 31.0 17.0
GEM | gem | ViT-B/16 | 79.9 35.9 23.7 30.8 15.7
+ClearCLIP | gem:clearclip | ViT-B/16 | 80.2 36.5 24.4 30.5 17.4
CLIP | clip | ViT-L/14 | 15.8 4.5 2.4 2.9 1.2
+ClearCLIP | clearclip | ViT-L/14 | 80.0 29.6 19.9 27.9 15.0
BLIP | clip | BLIP ViT-L/16 | 22.5 5.8 2.4 3.8 1.5
+ClearCLIP | clearclip | BLIP ViT-L/16 | 67.5 16.8 11.5 9.3 7.1
OpenCLIP | clip | OpenCLIP ViT-L/14 | 39.7 7.0 4.1 3.9 2.3
+ClearCLIP | clearclip | OpenCLIP ViT-L/14 | 65.3 27.9 19.5 26.4 16.0
MetaCLIP | clip | MetaCLIP ViT-L/14 | 22.7 6.2 3.6 5.1 2.2
+ClearCLIP | clearclip | MetaCLIP ViT-L/14 | 78.2 30.3 20.5 25.6 16.4
MaskCLIP | maskclip | ViT-L/14 | 30.1 12.6 8.9 10.1 6.9
+ClearCLIP | maskclip:clearclip | ViT-L/14 | 65.1 26.5 17.6 21.2 15.1
SCLIP | sclip | ViT-L/14 | 60.3 20.5 13.1 17.0 7.1
+ClearCLIP | sclip:clearclip | ViT-L/14 | 79.2 30.6 20.5 27.8 15.6
GEM | gem | ViT-L/14 | 80.3 26.4 17.6 22.6 11.6
+ClearCLIP | gem:clearclip | ViT-L/14 | 79.7 29.9 19.4 25.9 14.2
""",
        "The averages and gains that the paper prints are left out; two of them do not follow from "
        "their columns, and the last two gains of its text are swapped. All run in ClearCLIP's own "
        "harness; ours run SCLIP and GEM under their own released settings.",
    ),
    _table(
        "naclip",
        "NACLIP, main results",
        "With PAMR, mIoU",
        f"{_EIGHT} ade150 cityscapes",
        """
NACLIP | naclip+pamr | ViT-B/16 | 64.07 34.99 36.19 83.03 38.35 25.69 19.05 38.27
""",
    ),
    _table(
        "maskclip",
        "MaskCLIP, released configurations",
        "Under its own settings, mIoU",
        "voc20 context59 coco_stuff",
        """
MaskCLIP | maskclip:official | ViT-B/16 | 49.5 21.7 12.5
""",
    ),
    _table(
        "clearclip-1",
        "ClearCLIP, supplement, Table 1",
        "The residual without its highest channels, mean mIoU over all eight data sets",
        "mean_of_8",
        """
beta 0 | clearclip residual=true | ViT-B/16 | 22.1
beta 5 | clearclip residual=true residual_beta=0.05 | ViT-B/16 | 30.2
beta 10 | clearclip residual=true residual_beta=0.1 | ViT-B/16 | 33.5
beta 30 | clearclip residual=true residual_beta=0.3 | ViT-B/16 | 37.4
beta 50 | clearclip residual=true residual_beta=0.5 | ViT-B/16 | 38.0
beta 70 | clearclip residual=true residual_beta=0.7 | ViT-B/16 | 38.1
beta 100 | clearclip residual=true residual_beta=1.0 | ViT-B/16 | 38.1
normalised | clearclip residual=true residual_norm=true | ViT-B/16 | 38.1
""",
        "Ours is shown where all eight data sets were evaluated.",
    ),
)

EIGHT = tuple(f"{_EIGHT} cityscapes ade150".split())


def lookup(
    entry: Mapping[str, Any], model: Mapping[str, str], networks: Mapping[str, str]
) -> list[Number]:
    """The published numbers of the setting that a run of ours had, its own paper's first.

    Args:
        entry: a run as results.json holds it.
        model: backbone and family of the weights.
        networks: sources of the networks beside CLIP, by kind.
    """
    numbers: list[Number] = []
    for table in TABLES:
        for row in table.rows:
            if not same_weights(row.backbone, model):
                continue
            for column, value in zip(table.columns, row.values, strict=True):
                if column.dataset != entry["dataset"] or value is None:
                    continue
                if any(same_setting(run, entry, networks) for run in row.runs):
                    numbers.append(Number(table.source, column.metric, value))
    own = OWN_PAPER.get(entry["protocol"]["method"], "")
    return sorted(dict.fromkeys(numbers), key=lambda n: not n.source.startswith(own))


# The paper whose numbers of a method are shown first: its own, or where its baseline was run.
OWN_PAPER = {
    "clip": "ClearCLIP",
    "maskclip": "ClearCLIP",
    "sclip": "CLIPer, Table 1",
    "clearclip": "ClearCLIP",
    "gem": "ClearCLIP",
    "proxyclip": "ProxyCLIP",
    "cliptrase": "CLIPtrase",
    "cliper": "CLIPer",
    "naclip": "NACLIP",
}


def same_weights(backbone: str, model: Mapping[str, str]) -> bool:
    """Whether a row's backbone, `ViT-B/16` or `OpenCLIP ViT-B/16`, is the model's."""
    *family, architecture = backbone.split()
    return [architecture, *(family or ["OpenAI"])] == [model["backbone"], model["family"]]


def same_setting(run: Run, entry: Mapping[str, Any], networks: Mapping[str, str]) -> bool:
    """Whether a run of ours is what a row asks for: entry, settings, and nothing else by hand."""
    protocol = entry["protocol"]
    if protocol["protocol"] == "untuned":
        return False
    wanted = Entry.split(run.entry)
    if wanted.method != protocol["method"]:
        return False
    first = next(iter(METHODS[wanted.method].variants))
    settings = protocol["settings"]
    refiners = ",".join(wanted.refiners or ()) or "none"
    if (protocol["variant"], settings["refine"]) != (wanted.variant or first, refiners):
        return False
    asked = run.on(entry["dataset"])
    by_hand = {key for key, origin in protocol["origins"].items() if origin == "--set"}
    return by_hand <= set(asked) and all(
        _same(value, networks.get(key, settings.get(key))) for key, value in asked.items()
    )


def _same(written: str, value: Any) -> bool:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        try:
            return float(written) == float(value)
        except ValueError:
            return False
    return written == write(value)


def command(table: Table) -> list[str]:
    """The commands that make our column of a table, one for each setting and backbone."""
    grouped: dict[tuple[str, tuple[str, ...], str], dict[str, None]] = {}
    for row in table.rows:
        if not row.runs:
            continue
        run = row.runs[0]
        pairs = zip(table.columns, row.values, strict=True)
        names = dict.fromkeys(c.dataset for c, v in pairs if v is not None)
        names.pop("milliseconds", None)
        if "mean_of_8" in names:
            names = dict.fromkeys(EIGHT)
        for group in _alike(run, names):
            changes = tuple(f"{k}={v}" for k, v in run.on(group[0]).items())
            entries = grouped.setdefault((row.backbone, changes, ",".join(group)), {})
            entries[run.entry] = None
    metrics = {column.metric for column in table.columns}
    lines: list[str] = []
    for (backbone, changes, datasets), entries in grouped.items():
        words = ["wordmask evaluate", ",".join(entries), datasets, "--root data"]
        words.append(f"--model {MODELS[backbone]}")
        for change in changes:
            key, _, value = change.partition("=")
            set_by_hand = f"--set {shlex.quote(change)}"
            words.append(f"--{key} {value}" if key in NETWORKS else set_by_hand)
        words += ["--image-level"] if "image_map" in metrics else []
        lines.append(" ".join([*words, f"--out runs/{table.id}-{len(lines) + 1}"]))
    return lines


def _alike(run: Run, datasets: Mapping[str, None]) -> list[list[str]]:
    """Data sets grouped by the settings that a run has on them."""
    groups: dict[str, list[str]] = {}
    for name in datasets:
        groups.setdefault(str(run.on(name)), []).append(name)
    return list(groups.values())


NETWORKS = ("vfm", "diffusion", "sam")
MODELS = {
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "OpenCLIP ViT-B/16": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "OpenCLIP ViT-L/14": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "OpenCLIP ViT-H/14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "MetaCLIP ViT-B/16": "facebook/metaclip-b16-fullcc2.5b",
    "MetaCLIP ViT-L/14": "facebook/metaclip-l14-fullcc2.5b",
    "BLIP ViT-B/16": "Salesforce/blip-itm-base-coco",
    "BLIP ViT-L/16": "Salesforce/blip-itm-large-coco",
}
