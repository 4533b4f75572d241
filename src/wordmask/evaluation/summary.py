"""Results as Markdown tables, and the numbers in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wordmask.evaluation.markdown import markdown_table
from wordmask.evaluation.published import Reported

RATIOS = frozenset({"seam_ratio"})  # metrics that are no shares
NAMES = (
    "Plain names: the mIoU of the same run with the benchmark's own words (`--names "
    "released,plain` makes it). Words: the names of the classes that the run was given + those of "
    "the background."
)


def percent(share: float | None) -> str:
    """A share as percent with one decimal, a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def shown(key: str, value: float | None) -> str:
    """A metric as tables show it: percent, or a plain ratio."""
    if value is None or key not in RATIOS:
        return percent(value)
    return f"{value:.2f}"


def complete(entry: Mapping[str, Any]) -> bool:
    """Whether the whole evaluation split was counted, as for a published number."""
    return bool(entry["expected"]) and entry["images"] == entry["expected"]


def headline(entry: Mapping[str, Any]) -> Reported | None:
    """The published mIoU of the same setting, from the method's own paper if it has one."""
    for found in entry["published"]:
        if found["metric"] == "miou":
            return Reported(**found)
    return None


def word_count(entry: Mapping[str, Any]) -> str:
    """How many words a run was given: names of classes, and of the background: `30 + 26`."""
    words = entry.get("words")
    if not words:
        return "-"
    return f"{words['names']}" + (f" + {words['background']}" if words["background"] else "")


def outside(entry: Mapping[str, Any]) -> bool:
    """Whether the mIoU lies outside its own interval.

    A percentile interval is that of resampled sets. Those lack some of the classes that few
    pictures show, which moves their mean to one side; on few pictures, past the number itself.
    """
    low, high = entry["intervals"][f"miou_{entry['protocol']['settings']['definition']}"]
    if None in (low, high, entry["miou"]):
        return False
    return not low <= entry["miou"] <= high


def nearly(entry: Mapping[str, Any]) -> str:
    """The published mIoU that a run misses, and by what, in words; "" if there is none."""
    near = entry.get("near")
    if not near:
        return ""
    row = f", {near['row']}" if near["row"] else ""
    differences = "; ".join(near["differences"])
    return f"{near['value']:g} ({near['source']}{row}) is of another setting: {differences}"


def markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown: a table for each data set, with notes."""
    model = results["model"]
    lines = [
        "# Evaluation",
        "",
        f"Model {model['source']} ({model['backbone']}, weights {model['weights']}, "
        f"{model['dtype']}); {results['machine']}; wordmask {results['versions']['wordmask']}, "
        f"torch {results['versions']['torch']}; {results['made']}.",
    ]
    clean = [entry for entry in results["runs"] if entry["condition"][0] == "clean"]
    for name in dict.fromkeys(entry["dataset"] for entry in clean):
        lines += ["", *_table([entry for entry in clean if entry["dataset"] == name])]
        curve = [e for e in results["runs"] if e["dataset"] == name]
        if len(curve) > len([e for e in clean if e["dataset"] == name]):
            lines += ["", *_corruptions(curve)]
    lines += ["", *_legend(clean)]
    return "\n".join(lines) + "\n"


def _table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    first = entries[0]
    mixed = len({e["protocol"]["settings"]["definition"] for e in entries}) > 1
    count = f"{first['images']} pictures"
    if first["expected"] and not complete(first):
        count += f" of {first['expected']}: no number here compares with a published one"
    extra = [
        (key, name)
        for key, name in (
            ("image_map", "mAP"),
            ("boundary_miou_union", "boundary mIoU"),
            ("calibration_error", "ECE"),
            ("seam_ratio", "seams"),
        )
        if any(key in entry["metrics"] for entry in entries)
    ]
    heads = ["method", "protocol", "mIoU", "95 % interval", "plain names", "words"]
    heads += [
        "published",
        "difference",
        "pixels",
        "classes",
        "fwIoU",
        *(name for _, name in extra),
        "ms",
    ]
    rows = []
    for entry in entries:
        means = entry["metrics"]
        definition = entry["protocol"]["settings"]["definition"]
        low, high = entry["intervals"][f"miou_{definition}"]
        published, difference = "-", "-"
        reported = headline(entry)
        if reported is not None:
            given = [reported.source, reported.words, reported.supervision]
            given[1:] = [f"words: {given[1]}", f"supervision: {given[2]}"] if given[1] else []
            published = f"{reported.value:g} ({'; '.join(given)})"
            if entry["miou"] is not None:
                difference = f"{100 * entry['miou'] - reported.value:+.1f}"
        seconds = entry["seconds"]
        rows.append(
            [
                f"`{entry['label']}`",
                entry["protocol"]["protocol"],
                percent(entry["miou"])
                + ("†" if outside(entry) else "")
                + (f" ({definition})" if mixed else ""),
                f"{percent(low)} to {percent(high)}",
                percent(entry.get("plain")),
                word_count(entry),
                published,
                difference,
                percent(means["pixel_accuracy"]),
                percent(means["mean_accuracy_present"]),
                percent(means["frequency_weighted_iou"]),
                *(shown(key, means.get(key)) for key, _ in extra),
                f"{1000 * (seconds['encode'] + seconds['decide']):.0f}",
            ]
        )
    title = f"## {first['title']} (`{first['dataset']}`), {count}"
    return [title, "", *markdown_table(heads, rows, ("method", "protocol"))]


def _corruptions(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """mIoU under every corruption, at severities 1, 2, 3."""
    kinds = list(dict.fromkeys(e["condition"][0] for e in entries if e["condition"][0] != "clean"))
    by = {(e["label"], *e["condition"]): e["miou"] for e in entries}
    rows = []
    for label in dict.fromkeys(e["label"] for e in entries):
        cells = [" / ".join(percent(by[label, kind, s]) for s in (1, 2, 3)) for kind in kinds]
        rows.append([f"`{label}`", percent(by[label, "clean", 0]), *cells])
    table = markdown_table(["method", "clean", *kinds], rows, ("method",))
    return ["mIoU of corrupted pictures, severities 1 / 2 / 3:", "", *table]


def _legend(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    definitions = {e["protocol"]["settings"]["definition"] for e in entries}
    meaning = {
        "union": "over the classes with union > 0 (a class that is predicted and not in the target "
        "counts as 0)",
        "present": "over the classes in the target",
    }
    lines = [
        "mIoU: one confusion matrix over the set, mean " + ", or ".join(
            meaning[d] + (f" (`{d}`)" if len(definitions) > 1 else "") for d in sorted(definitions)
        ) + "; both definitions are in results.json. Interval: bootstrap over pictures. Pixels, "
        "classes: accuracy over pixels, and mean over classes. ms: encode and decide, a picture; "
        "where methods share a pass of the network, each has the whole of it. "
        "Published numbers are those of the same networks, variant, protocol and settings, on all "
        "pictures of the set; what misses one by little is listed below, with what differs.",
    ]  # fmt: skip
    if any("calibration" in e for e in entries):
        lines[0] += (
            " ECE: expected calibration error in percent, over pixels in 15 bins of the "
            "probability of their label; 0 is best."
        )
    if any("seam_ratio" in e["metrics"] for e in entries):
        lines[0] += (
            " seams: how many times as often neighbouring pixels have different labels across the "
            "borders of windows as elsewhere."
        )
    lines[0] += f" {NAMES}"
    if any(number.supervision for number in filter(None, map(headline, entries))):
        lines[0] += (
            " Words and supervision beside a published number are those of its row; none of these "
            "numbers was reproduced where wordmask was written."
        )
    if any(map(outside, entries)):
        lines[0] += (
            " † outside its interval: resampled pictures lack some of the rarer classes, which "
            "moves their mean to one side."
        )
    notes = dict.fromkeys(
        f"{e['protocol']['entry']}: {note}" for e in entries for note in _notes(e)
    )
    near = {f"{e['label']}, {e['dataset']}": nearly(e) for e in entries}
    missed = [f"{name}: {text}." for name, text in near.items() if text]
    return [*lines, "", *(f"- {note}" for note in (*notes, *missed))]


def _notes(entry: Mapping[str, Any]) -> list[str]:
    note = entry.get("calibration", {}).get("note")
    return [*entry["protocol"]["notes"], *([note] if note else [])]
