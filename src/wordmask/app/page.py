"""The page: its layout, and what happens when something on it changes."""

from __future__ import annotations

import functools
import inspect
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from wordmask import batch
from wordmask.app import results
from wordmask.app.controls import method_panel, network_boxes, read_settings, words_box
from wordmask.app.engine import BUILT_IN, Engine
from wordmask.app.examples import examples
from wordmask.app.job import RULES, Job, Settings, read_background, read_words, understood
from wordmask.errors import WordmaskError, is_out_of_memory
from wordmask.explain import VIEWS
from wordmask.files import one_line
from wordmask.formats import DEFAULT, is_result
from wordmask.progress import listening
from wordmask.towers.auxiliary import DEFAULT_CLIP

HERE = Path(__file__).parent
MAX_FILE = "64mb"
MOST_WAITING = 32  # visitors in the queue
QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
WORK: dict[str, Any] = {"concurrency_id": "networks", "concurrency_limit": 1}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
SHOW_PLACE = "() => document.querySelectorAll('#wm-more [role=tab]')[1].click()"
SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
NUMBERS = {
    "threshold": (0.3, "Threshold"),
    "complement": (2.0, "Power"),
    "negatives": (64, "Names"),
}  # of rules
SIMPLE = ("auto", "none", "names")  # rules for the background outside the expert settings


def _path(payload: Any) -> str:
    """The file of an image component as it came: wordmask reads it, and says what is wrong."""
    return (payload and payload.path) or ""


def plainly(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same event handler, whose errors are one plain line on the page."""

    def told(error: BaseException) -> BaseException:
        if is_out_of_memory(error):
            error = WordmaskError("there is not enough memory; try a smaller short_side")
        elif not isinstance(error, (WordmaskError, OSError)):
            return error
        return gr.Error(escape(one_line(str(error))), title="", print_exception=False)

    if inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def generate(*given: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from work(*given, **named)
            except Exception as error:
                raise told(error) from error

        return generate

    @functools.wraps(work)
    def run(*given: Any, **named: Any) -> Any:
        try:
            return work(*given, **named)
        except Exception as error:
            raise told(error) from error

    return run


def reporting(progress: gr.Progress) -> AbstractContextManager[None]:
    """Show on the page what slow stages say: "loading ..., model.safetensors: 3 MB of 600 MB"."""
    scale = {"kB": 1e3, "MB": 1e6, "GB": 1e9}

    def show(text: str) -> None:
        share = 0.0
        if found := re.search(r"([\d.]+) (kB|MB|GB) of ([\d.]+) (kB|MB|GB)", text):
            done, unit, total, whole = found.groups()
            share = float(done) * scale[unit] / (float(total) * scale[whole])
        elif found := re.search(r"(\d+)/(\d+)", text):
            share = int(found[1]) / max(int(found[2]), 1)
        progress(min(share, 1.0), desc=one_line(text) or "working")

    return listening(show)


def note(engine: Engine, model: str) -> str:
    """What the chosen network knows, in plain words; HTML."""
    if model != BUILT_IN:
        return f'<p class="wm-note">Network: <b>{escape(model)}</b></p>'
    return (
        '<p class="wm-note wm-toy">This is the built-in network. It needs no download and knows '
        "<b>rendered scenes only</b>: grass, sand, water, brick, snow, wood, gravel and soil, and "
        "things such as “red striped” or “blue dotted”. Labels of a photograph mean nothing with "
        f"it: photographs need a CLIP, such as {DEFAULT_CLIP} (600 MB, fetched once).</p>"
    )


@dataclass(frozen=True)
class Inputs:
    """The components for words and background of one tab."""

    words: gr.HTML
    rule: gr.Radio
    names: gr.HTML
    line: gr.HTML

    @property
    def all(self) -> list[Any]:
        """Those whose values are read."""
        return [self.words, self.rule, self.names]


def word_inputs(name: str) -> Inputs:
    """Boxes for words and background, and the line that says what was understood."""
    words = words_box("Words", "type a word, then Enter; synonyms after a comma", f"{name}-words")
    rule = gr.Radio(
        [(RULES[one], one) for one in SIMPLE],
        value="auto",
        label="Background",
        elem_id=f"{name}-rule",
    )
    with gr.Column(visible=False, elem_classes="wm-plain") as more:
        names = words_box("Background words", "type a word, then Enter", f"{name}-names")
    line = gr.HTML(elem_id=f"{name}-understood")
    rule.change(lambda rule: gr.Column(visible=rule == "names"), rule, more, **QUIET)
    return Inputs(words, rule, names, line)


def say_understood(
    words: list[str],
    rule: str,
    names: list[str],
    special: str = "",
    number: float | None = None,
) -> str:
    """What the page understood, or why it cannot be used; HTML."""
    if not words:
        return ""
    try:
        read = read_words(words)
        text = understood(read, read_background(special or rule, names or [], number, read))
        return f'<p class="wm-line"><b>Understood:</b> {escape(text)}</p>'
    except WordmaskError as error:
        return f'<p class="wm-line wm-bad">{escape(one_line(str(error)))}</p>'


def build(engine: Engine) -> gr.Blocks:
    """The page on an engine; `launch` serves it."""
    folder = tempfile.TemporaryDirectory(prefix="wordmask-app-")  # removed with the page
    scratch = Path(folder.name)
    fetches = engine.local and not engine.offline
    with gr.Blocks(
        title="wordmask", analytics_enabled=False, delete_cache=(3600, 24 * 3600), fill_width=True
    ) as page:
        gr.HTML("<h1>wordmask</h1><p>Words in, masks out.</p>", elem_id="wm-head")
        with gr.Row(elem_id="wm-network"):
            about = gr.HTML(note(engine, engine.model))
            get = gr.Button(
                "Get a CLIP (600 MB)",
                size="sm",
                scale=0,
                min_width=180,
                visible=engine.model == BUILT_IN and fetches,
            )
        with gr.Tabs():
            with gr.Tab("One picture"):
                parts = _picture_tab(engine, scratch)
            if engine.local:
                with gr.Tab("A folder"):
                    _folder_tab(engine, scratch, parts)

        def choose(model: str, last: str, progress: Any = gr.Progress()) -> Any:  # noqa: B008
            try:
                with reporting(progress):
                    engine.load(model)
            except WordmaskError as error:  # the page goes on with the network before
                gr.Warning(escape(one_line(str(error))), title="", duration=None)
                return {parts.model: last}
            found = examples(model, scratch)
            return {
                taken: model,
                about: note(engine, model),
                parts.gallery: gr.Gallery([one.picture for one in found], visible=bool(found)),
                get: gr.Button(visible=model == BUILT_IN and fetches),
            }

        taken = gr.State(engine.model)
        outputs = [taken, parts.model, about, parts.gallery, get]
        event = {"show_progress_on": about, **WORK, **PRIVATE}
        parts.model.change(plainly(choose), [parts.model, taken], outputs, **event)
        get.click(lambda: DEFAULT_CLIP, None, parts.model, **QUIET)
    page.scratch = folder
    return page


@dataclass(frozen=True)
class Parts:
    """Components of the first tab that others use."""

    model: gr.Dropdown
    gallery: gr.Gallery
    settings: list[Any]
    read: Callable[..., Settings]
    alpha: gr.Slider


def _picture_tab(engine: Engine, scratch: Path) -> Parts:
    job: Any = gr.State(None)
    started = examples(engine.model, scratch)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = gr.Image(
                label="Picture",
                sources=["upload", "clipboard", "webcam"],
                buttons=[],
                height=300,
                elem_id="wm-picture",
                placeholder="drop a picture here, or click to choose one",
            )
            picture.preprocess = _path  # type: ignore[method-assign]
            gallery = gr.Gallery(
                [one.picture for one in started],
                label="Examples",
                columns=4,
                height=150,
                allow_preview=False,
                interactive=False,
                buttons=[],
                visible=bool(started),
                elem_id="wm-examples",
            )
            inputs = word_inputs("wm")
            run = gr.Button("Segment", variant="primary", elem_id="wm-run")
            with gr.Accordion("Expert settings", open=False, elem_id="wm-expert"):
                model = gr.Dropdown(
                    engine.models,
                    value=engine.model,
                    label="CLIP",
                    info="in the hub's cache or built in"
                    + ("; or type a hub id or a folder" if engine.local else ""),
                    allow_custom_value=engine.local,
                    elem_id="wm-model",
                )
                panel = method_panel("wm")
                with gr.Row():
                    special = gr.Dropdown(
                        [
                            ("as above", ""),
                            ("unsure pixels", "threshold"),
                            ("complement", "complement"),
                            ("chosen negatives", "negatives"),
                        ],
                        value="",
                        label="Background rule",
                        info="threshold on the probability of the best word, (1 - p)^power, or "
                        "names of other things",
                        elem_id="wm-special",
                    )
                    number = gr.Number(
                        0.3, label="Threshold", step=0.05, visible=False, elem_id="wm-number"
                    )
                boxes = {}
                if engine.local:
                    with gr.Accordion("Auxiliary networks", open=False):
                        boxes = network_boxes(engine)
        with gr.Column(scale=3, min_width=320):
            empty = gr.HTML(
                "<p>Choose a picture, type what to look for, and press Segment.</p>"
                "<p>Or click one of the examples.</p>",
                elem_id="wm-empty",
            )
            status = gr.HTML(elem_id="wm-status")
            with gr.Column(visible=False) as shown:
                overlay = gr.Image(
                    label="Result",
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="wm-overlay",
                )
                hover = gr.HTML(
                    None,
                    html_template="",
                    js_on_load=(HERE / "hover.js").read_text(encoding="utf-8"),
                    elem_id="wm-hover",
                )
                alpha = gr.Slider(0, 1, 0.55, step=0.05, label="Opacity", elem_id="wm-alpha")
                legend = gr.HTML(elem_id="wm-legend")
                with gr.Tabs(elem_id="wm-more"):
                    word_tab = _word_tab(engine, job)
                    clear_place = _place_tab(engine, job, overlay)
                    _compare_tab(engine, job, alpha)
                    _files_tab(engine, job, scratch)

    settings = [model, *panel.inputs, *boxes.values()]

    def read(
        model: str, method: str, variant: str, refine: Any, options: Any, *sources: Any
    ) -> Any:
        networks = dict(zip(boxes, sources, strict=True))
        return read_settings(model, method, variant, refine, options, networks)

    def choose_rule(rule: str) -> gr.Number:
        value, label = NUMBERS.get(rule, NUMBERS["threshold"])
        return gr.Number(value, label=label, visible=rule in NUMBERS)

    special.change(choose_rule, special, number, **QUIET)
    said = [*inputs.all, special, number]
    gr.on([one.change for one in said], say_understood, said, inputs.line, **QUIET)

    def check(path: str) -> str | None:
        """The picture, as a file that the browser can show; None if it cannot be read."""
        if not path:
            return None
        try:
            read_picture = engine.picture(path)
        except WordmaskError as error:
            gr.Warning(escape(one_line(str(error))), title="")
            return None
        if Path(path).suffix.lower() in SHOWN_BY_BROWSERS:
            return path
        shown = scratch / f"{read_picture.digest}.png"
        Image.fromarray(read_picture.pixels).save(shown, compress_level=1)
        return str(shown)

    picture.upload(check, picture, picture, show_progress="hidden", **PRIVATE)

    def segment(
        picture: str,
        words: list[str],
        rule: str,
        names: list[str],
        special: str,
        number: float | None,
        alpha: float,
        *settings: Any,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Any:
        engine.picture(picture)
        read_classes = read_words(words or [])
        background = read_background(special or rule, names or [], number, read_classes)
        job = Job(picture, read_classes, background, read(*settings))
        start = time.monotonic()
        with reporting(progress), telling():
            kept = engine.is_encoded(job)
            outcome = engine.run(job)
        seconds = time.monotonic() - start
        found = outcome.result.found or read_classes.names
        return {
            state: job,
            empty: gr.HTML(visible=False),
            shown: gr.Column(visible=True),
            status: _status(outcome, seconds, kept),
            overlay: results.overlay(outcome.result, alpha),
            hover: results.hover(outcome.result),
            legend: results.legend(outcome),
            word_tab.word: gr.Dropdown(choices=list(read_classes.names), value=found[0]),
        }

    state = job
    outputs = [state, empty, shown, status, overlay, hover, legend, word_tab.word]
    given = [picture, *said, alpha, *settings]
    event = {"show_progress_on": status, **WORK}
    ran = run.click(plainly(segment), given, outputs, api_name="segment", **event)

    def begin(model: str, chosen: gr.SelectData) -> Any:
        one = examples(model, scratch)[chosen.index]
        return (
            one.picture,
            list(one.words),
            one.background,
            say_understood(list(one.words), one.background, []),
            "",
        )

    begun = gallery.select(
        begin, model, [picture, inputs.words, inputs.rule, inputs.line, special], **QUIET
    )
    example = begun.then(plainly(segment), given, outputs, **event, **PRIVATE)
    for one in (ran, example):
        one.success(word_tab.show, [job, word_tab.word], word_tab.outputs, **PRIVATE)
        one.success(lambda: ("", None), None, clear_place, **QUIET)

    def paint(job: Job | None, alpha: float) -> Any:
        return gr.skip() if job is None else results.overlay(engine.run(job).result, alpha)

    alpha.change(
        plainly(paint),
        [job, alpha],
        overlay,
        trigger_mode="always_last",
        show_progress="hidden",
        api_name="opacity",
    )
    return Parts(model, gallery, settings, read, alpha)


class telling:  # noqa: N801
    """Warnings of the library, such as of a word that is too long, appear on the page."""

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: gr.Warning(
            escape(one_line(str(message))), title=""
        )

    def __exit__(self, *error: Any) -> None:
        self._caught.__exit__(*error)


def _status(outcome: results.Outcome, seconds: float, kept: bool) -> str:
    made = outcome.result.provenance
    refiners = "".join(f" + {one['name']}" for one in made["refiners"])
    how = "with the encoding kept" if kept else "encoding included"
    return (
        f'<p class="wm-line">{escape(made["method"])} ({escape(made["variant"])}){refiners} · '
        f"{escape(made['model'])} · {seconds:.2f} s, {how}</p>"
    )


@dataclass(frozen=True)
class WordTab:
    """The tab of one word."""

    word: gr.Dropdown
    outputs: list[Any]
    show: Callable[..., Any]


def _word_tab(engine: Engine, job: gr.State) -> WordTab:
    with gr.Tab("A word", id="word"):
        word = gr.Dropdown([], label="Word", elem_id="wm-word")
        with gr.Row():
            heat = gr.Image(
                label="Heat map", interactive=False, buttons=["download"], elem_id="wm-heat"
            )
            cut = gr.Image(
                label="Cut out",
                image_mode="RGBA",
                format="png",
                interactive=False,
                buttons=["download"],
                elem_id="wm-cut",
            )

    def show(job: Job | None, word: str) -> Any:
        if job is None or word not in job.words.names:
            return gr.skip(), gr.skip()
        result = engine.run(job).result
        return results.heat_map(result, word), results.cut_out(result, word)

    word.input(plainly(show), [job, word], [heat, cut], api_name="word")
    return WordTab(word, [heat, cut], plainly(show))


def _place_tab(engine: Engine, job: gr.State, overlay: gr.Image) -> list[Any]:
    """A click on the overlay: scores there, and a view of what the method does; returns both."""
    with gr.Tab("A place", id="place"):
        point = gr.State(None)  # here, since Tabs hold nothing but Tab
        gr.HTML('<p class="wm-line">Click on the picture above.</p>')
        with gr.Row():
            scores = gr.HTML(elem_id="wm-scores")
            with gr.Column():
                view = gr.Dropdown(
                    [(one.title, name) for name, one in VIEWS.items()],
                    value="attention",
                    label="What to look at",
                    elem_id="wm-view",
                )
        drawn = gr.Image(
            label="Inside",
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id="wm-inside",
        )

    def click(job: Job | None, clicked: gr.SelectData) -> Any:
        if job is None:
            return gr.skip(), gr.skip()
        outcome = engine.run(job)
        at = results.at_pixel(outcome.result, *clicked.index)
        return results.place(outcome, *at), at

    def look(job: Job | None, at: Any, view: str, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        if job is None or at is None:
            return None
        with reporting(progress):
            return engine.draw(job, view, tuple(at))

    clicked = overlay.select(
        plainly(click), job, [scores, point], show_progress="hidden", **PRIVATE
    )
    clicked.success(None, js=SHOW_PLACE, **QUIET)
    clicked.success(plainly(look), [job, point, view], drawn, **WORK, **PRIVATE)
    view.input(plainly(look), [job, point, view], drawn, **WORK, **PRIVATE)
    return [scores, drawn]


def _compare_tab(engine: Engine, job: gr.State, alpha: gr.Slider) -> None:
    with gr.Tab("Compare", id="compare"):
        gr.HTML('<p class="wm-line">The result above on the left, and this on the right:</p>')
        panel = method_panel("wm-other", "clip")
        go = gr.Button("Compare", elem_id="wm-compare")
        said = gr.HTML(elem_id="wm-compared")
        slider = gr.ImageSlider(
            show_label=False, interactive=False, format="png", buttons=[], elem_id="wm-slider"
        )

    def compare(
        job: Job | None,
        alpha: float,
        method: str,
        variant: str,
        refine: list[str],
        options: dict[str, str],
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Any:
        if job is None:
            raise WordmaskError("there is no result yet; press Segment first")
        settings = read_settings(job.settings.model, method, variant, refine, options, {})
        other = replace(job, settings=replace(settings, networks=job.settings.networks))
        with reporting(progress):
            found = [engine.run(one).result for one in (job, other)]
        lines = [
            f"<b>{side}: {escape(_name(one.settings))}</b> {escape(results.in_words(result))}"
            for side, one, result in zip(("left", "right"), (job, other), found, strict=True)
        ]
        line = f'<p class="wm-line">{"<br>".join(lines)}</p>'
        left, right = (results.overlay(result, alpha) for result in found)
        return (left, right), line

    go.click(
        plainly(compare), [job, alpha, *panel.inputs], [slider, said], api_name="compare", **WORK
    )


def _name(settings: Settings) -> str:
    """`cliper:paper + pamr`."""
    name = f"{settings.method}:{settings.variant}" if settings.variant else settings.method
    return " + ".join([name, *settings.refine])


def _files_tab(engine: Engine, job: gr.State, scratch: Path) -> None:
    with gr.Tab("Files", id="files"):
        chosen = format_boxes("wm-formats")
        make = gr.Button("Make files", elem_id="wm-make")
        files = gr.File(label="Download", interactive=False, elem_id="wm-files", visible=False)

    def write(job: Job | None, chosen: list[str], request: gr.Request) -> Any:
        if job is None:
            raise WordmaskError("there is no result yet; press Segment first")
        if not chosen:
            raise WordmaskError("there is no format yet; tick one or more")
        result = engine.run(job).result
        folder = scratch / str(request.session_hash)  # one for each visitor, with the last files
        shutil.rmtree(folder, ignore_errors=True)
        picture = batch.Picture(Path(job.picture), Path(job.picture).stem)
        results.write(result, job.words, picture, chosen, folder)
        results.write_whole(job.words, [picture], chosen, folder)
        return gr.File(results.packed(folder), visible=True, file_count="multiple")

    make.click(plainly(write), [job, chosen], files, api_name="files")


def format_boxes(name: str) -> gr.CheckboxGroup:
    """Boxes for the registered formats, with what each is."""
    known = results.formats()
    boxes = gr.CheckboxGroup(
        list(known),
        value=[one for one in DEFAULT if one in known],
        label="Formats",
        elem_id=name,
    )
    with gr.Accordion("What these are", open=False):
        lines = "".join(f"<li><b>{one}</b>: {escape(text)}</li>" for one, text in known.items())
        gr.HTML(f'<ul class="wm-line">{lines}</ul>')
    return boxes


def _folder_tab(engine: Engine, scratch: Path, parts: Parts) -> None:
    gr.HTML(
        '<p class="wm-line">A folder on this machine. The expert settings of the other tab apply. '
        "This tab is only here since the page is served to this machine alone.</p>"
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            folder = gr.Textbox(
                label="Folder, or a pattern such as photos/*.jpg", elem_id="wm-folder", max_lines=1
            )
            inputs = word_inputs("wm-f")
            out = gr.Textbox(
                label="Write results into",
                info="a folder; empty: only show them",
                elem_id="wm-out",
                max_lines=1,
            )
            formats = format_boxes("wm-f-formats")
            with gr.Row():
                run = gr.Button("Segment all", variant="primary", elem_id="wm-run-folder")
                stop = gr.Button("Stop", elem_id="wm-stop")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="wm-folder-status")
            grid = gr.Gallery(
                label="Results",
                show_label=False,
                columns=3,
                height="auto",
                buttons=[],
                interactive=False,
                elem_id="wm-grid",
            )

    said = inputs.all
    listen = [one.change for one in said]
    gr.on(listen, say_understood, said, inputs.line, **QUIET)

    def segment_all(
        folder: str,
        words: list[str],
        rule: str,
        names: list[str],
        out: str,
        formats: list[str],
        alpha: float,
        *settings: Any,
    ) -> Iterator[Any]:
        if not folder.strip():
            raise WordmaskError("there is no folder yet; type its path")
        read = read_words(words or [])
        background = read_background(rule, names or [], None, read)
        chosen = parts.read(*settings)
        target = Path(out.strip() or scratch).expanduser()
        pictures = [
            one
            for one in batch.find_pictures([str(Path(folder.strip()).expanduser())], target)
            if not _is_own(one.path, target)
        ]
        cells: list[tuple[str, str]] = []
        lines: list[str] = []
        shown = time.monotonic()
        done: list[batch.Picture] = []
        with tempfile.TemporaryDirectory(dir=scratch) as thumbnails:
            for number, picture in enumerate(pictures, 1):
                try:
                    result = engine.run(Job(str(picture.path), read, background, chosen)).result
                    if out.strip():
                        results.write(result, read, picture, formats, target)
                        done.append(picture)
                except WordmaskError as error:
                    lines.append(one_line(str(error)))
                    continue
                small = Path(thumbnails) / f"{number}.jpg"
                results.thumbnail(result, alpha).save(small, quality=88)
                cells.append((str(small), f"{picture.path.name}: {results.in_words(result)}"))
                if number < len(pictures) and time.monotonic() - shown > 0.4:
                    shown = time.monotonic()
                    yield cells, _count(number, len(pictures), lines)
            if done:
                results.write_whole(read, done, formats, target)
            yield cells, _count(len(pictures), len(pictures), lines)

    given = [folder, *said, out, formats, parts.alpha, *parts.settings]
    running = run.click(
        plainly(segment_all),
        given,
        [grid, status],
        api_name="folder",
        show_progress_on=status,
        **WORK,
    )
    stop.click(None, cancels=running, **QUIET)


def _is_own(path: Path, target: Path) -> bool:
    """Whether a picture is a result of an earlier run into this folder."""
    path, target = path.resolve(), target.resolve()
    return target in path.parents and is_result(path.relative_to(target).as_posix())


def _count(done: int, total: int, lines: Sequence[str]) -> str:
    left_out = f", {len(lines)} left out: {escape('; '.join(lines[:3]))}" if lines else ""
    return f'<p class="wm-line"><b>{done} of {total}</b>{left_out}</p>'


def _warm(engine: Engine) -> None:
    with suppress(Exception):  # said when the first picture is segmented
        engine.segmenter(Settings(engine.model))


def launch(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    share: bool = False,
    browser: bool = False,
    block: bool = True,
) -> tuple[gr.Blocks, str]:
    """Serve the page.

    Args:
        engine: with `local` only if `host` is this machine and nothing is shared.
        host, port: where it is served; port None: the first free one from 7860 on.
        share: also at a public address of gradio's.
        browser: open it in the browser.
        block: until the process ends.

    Returns:
        The page and its address.
    """
    page = build(engine)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    if engine.model in (BUILT_IN, *engine.cached):  # at hand: the first visitor need not wait
        threading.Thread(target=_warm, args=(engine,), daemon=True).start()
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MAX_FILE,
        state_session_capacity=1000,
        theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate"),
        css_paths=HERE / "page.css",
    )
    if block:
        page.block_thread()
    return page, address
