"""Components made from the registries: methods, variants, refiners and their options."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from wordmask.app.engine import Engine
from wordmask.app.job import Settings
from wordmask.methods import METHODS, Method
from wordmask.options import EXTRAS, Options, describe, is_installed
from wordmask.refiners import REFINERS, Refiner, WordStep
from wordmask.registry import split_variant
from wordmask.towers.auxiliary import KINDS

WORDS_SCRIPT = (Path(__file__).parent / "words.js").read_text(encoding="utf-8")
DEFAULT = "cliper"


def words_box(label: str, placeholder: str, name: str) -> gr.HTML:
    """A box for words typed one by one; its value is a list of texts, synonyms after commas."""
    return gr.HTML(
        [],
        container=True,
        html_template=f"<span>{label}</span>"
        f'<div class="wm-tags" data-label="{label}" data-placeholder="{placeholder}"></div>',
        js_on_load=WORDS_SCRIPT,
        elem_id=name,
        elem_classes="wm-words",
    )


def needs(one: type[Options]) -> str:
    """What a method or refiner needs besides CLIP, in a sentence."""
    if not is_installed(one):
        return f'Not installed here: `pip install "wordmask[{one.extra}]"` ({EXTRAS[one.extra]}).'
    if issubclass(one, WordStep):
        return "Needs a method that compares cosines, not class maps."
    if one.network == "none":
        return "Needs nothing besides CLIP."
    kind = KINDS[one.network]
    return f"Needs an auxiliary network, loaded when first used: `{kind.source}` unless changed."


def sentences(method: str, refine: Sequence[str]) -> str:
    """A sentence about the method and each refiner, with what it needs; Markdown."""
    chosen = [(METHODS.resolve(method), Method)]
    chosen += [(REFINERS.resolve(split_variant(text)[0]), Refiner) for text in refine]  # type: ignore[misc]
    lines = []
    for one, base in chosen:
        said = describe(one, base)
        lines.append(f"**{said['title']}** · {said['summary']} {needs(one)}")
    return "\n\n".join(lines)


@dataclass(frozen=True)
class Option:
    """An option of a method or refiner on the page.

    Attributes:
        key: "option", or "refiner.option".
        hint: its type.
        value: with the chosen variant.
        about: what it does.
        common: whether every method has it.
    """

    key: str
    hint: Any
    value: Any
    about: str
    common: bool


def options_of(method: str, variant: str | None, refine: Sequence[str]) -> list[Option]:
    """The options of a method and of refiners, from the fields of their dataclasses."""
    found = []
    parts: list[tuple[type[Options], Any, str | None, str]] = [
        (METHODS.resolve(method), Method, variant, "")
    ]
    for text in refine:
        name, own = split_variant(text)
        parts.append((REFINERS.resolve(name), Refiner, own, f"{name}."))
    for one, base, own, prefix in parts:
        hints = typing.get_type_hints(one)
        values = one(**one.variants[own or next(iter(one.variants))]).options()
        for said in describe(one, base)["options"]:
            name = said["name"]
            found.append(
                Option(
                    prefix + name, hints[name], values[name], said["description"], said["common"]
                )
            )
    return found


def as_text(value: Any) -> str:
    """A value of an option as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _component(option: Option) -> Any:
    """The component for an option: by its type."""
    label: dict[str, Any] = {"label": option.key, "info": option.about}
    if option.hint is bool:
        return gr.Checkbox(option.value, **label)
    if typing.get_origin(option.hint) is Literal:
        return gr.Dropdown(list(typing.get_args(option.hint)), value=option.value, **label)
    if option.hint is int:
        return gr.Number(option.value, precision=0, **label)
    if option.hint is float:
        return gr.Number(option.value, step=0.05, **label)
    return gr.Textbox(as_text(option.value), lines=1, max_lines=1, **label)


@dataclass(frozen=True)
class MethodPanel:
    """The components that choose a method with its variant, refiners and options."""

    method: gr.Dropdown
    variant: gr.Dropdown
    refine: gr.Dropdown
    options: gr.State

    @property
    def inputs(self) -> list[Any]:
        """The components whose values `read` takes."""
        return [self.method, self.variant, self.refine, self.options]


def method_panel(name: str, default: str = DEFAULT) -> MethodPanel:
    """Dropdowns of the registries, with sentences and the options of what is chosen."""
    titles = [(f"{METHODS[x].title} ({METHODS[x].year})", x) for x in sorted(METHODS)]
    method = gr.Dropdown(titles, value=default, label="Method", elem_id=f"{name}-method")
    first = list(METHODS[default].variants)
    variant = gr.Dropdown(first, value=first[0], label="Variant", elem_id=f"{name}-variant")
    listed = [
        (f"{REFINERS[x].title}{'' if i == 0 else f' ({v})'}", x if i == 0 else f"{x}:{v}")
        for x in sorted(REFINERS)
        for i, v in enumerate(REFINERS[x].variants)
    ]
    refine = gr.Dropdown(
        listed,
        value=[],
        multiselect=True,
        label="Refiners, in order",
        elem_id=f"{name}-refine",
    )
    about = gr.Markdown(sentences(default, []), elem_classes="wm-about")
    options = gr.State({})

    def choose(chosen: str) -> tuple[Any, dict[str, str]]:
        variants = list(METHODS.resolve(chosen).variants)
        return gr.Dropdown(choices=variants, value=variants[0]), {}

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    method.input(choose, method, [variant, options], **quiet)
    variant.input(lambda: {}, None, options, **quiet)
    gr.on([method.change, refine.change], sentences, [method, refine], about, **quiet)

    with gr.Accordion("Options", open=False):

        @gr.render(inputs=[method, variant, refine], show_progress="hidden", queue=False)
        def show(method: str, variant: str, refine: list[str]) -> None:
            if variant not in METHODS.resolve(method).variants:
                return  # the variant of the method before
            found = options_of(method, variant, refine)
            _rows([one for one in found if not one.common], options)
            with gr.Accordion("Options of every method", open=False):
                _rows([one for one in found if one.common], options)

    return MethodPanel(method, variant, refine, options)


def _rows(found: Sequence[Option], kept: gr.State) -> None:
    """Components for options, each of which notes its value in `kept` once it is changed."""
    for option in found:

        def note(value: Any, kept: dict[str, str], key: str = option.key) -> dict[str, str]:
            return {**kept, key: as_text(value)}

        one = _component(option)
        event = one.input if isinstance(one, (gr.Checkbox, gr.Dropdown)) else one.change
        event(
            note,
            [one, kept],
            kept,
            show_progress="hidden",
            queue=False,
            api_visibility="private",
        )


def network_boxes(engine: Engine) -> dict[str, gr.Textbox]:
    """A box for the source of each kind of auxiliary network."""
    return {
        kind.name: gr.Textbox(
            engine.sources.get(kind.name, ""),
            label=kind.name,
            info=kind.help,
            placeholder=kind.source,
            max_lines=1,
        )
        for kind in KINDS.values()
    }


def read_settings(
    model: str,
    method: str,
    variant: str | None,
    refine: Sequence[str],
    options: Mapping[str, str],
    networks: Mapping[str, str | None],
) -> Settings:
    """Settings from the values of the page's components; empty sources are left out."""
    return Settings(
        model=model,
        method=method,
        variant=variant or None,
        refine=tuple(refine),
        options=tuple(sorted(options.items())),
        networks=tuple(sorted((k, v.strip()) for k, v in networks.items() if v and v.strip())),
    )
