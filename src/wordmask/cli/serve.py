"""`wordmask serve`: the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wordmask.cli.groups import (
    MODEL,
    BackendName,
    ModelOptions,
    RefinedMethodOptions,
    expand,
    read_exported,
    whole_number,
)
from wordmask.errors import WordmaskError, unknown

SERVICE, WORKERS, LIMITS, KEPT = "Service", "Workers", "Limits of a request", "Encodings"
TOOLS = "Annotation tools"


def _count(help_text: str, panel: str, metavar: str = "COUNT") -> Any:
    return typer.Option(parser=whole_number, metavar=metavar, help=help_text, rich_help_panel=panel)


@expand
def serve(
    method: RefinedMethodOptions,
    model: ModelOptions,
    backend: BackendName = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also-model",
            metavar="SOURCE",
            help="Another CLIP that requests may name. May be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where it is served; 0.0.0.0 for all who reach this machine.",
            rich_help_panel=SERVICE,
        ),
    ] = "127.0.0.1",
    port: Annotated[int, _count("Of 1024 to 65535.", SERVICE, "NUMBER")] = 8000,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="WORDMASK_API_KEYS",
            show_envvar=True,
            help="Every request needs one of these keys. Better in the environment, with blanks "
            "between them: other users see the arguments of a process.",
            rich_help_panel=SERVICE,
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Scripts of pages from there may use it, as in https://example.org. May be "
            "repeated.",
            show_default="none",
            rich_help_panel=SERVICE,
        ),
    ] = None,
    workers: Annotated[
        int,
        _count(
            "Processes that hold the networks; 0: none but the service's own, which takes one "
            "request at a time and the least memory.",
            WORKERS,
        ),
    ] = 1,
    batch: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="COUNT",
            help="Requests that a worker takes together.",
            show_default="8, and 1 on a CPU, which gains nothing by more",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    batch_wait: Annotated[
        int,
        _count("Until a batch that is not full begins.", WORKERS, "MILLISECONDS"),
    ] = 5,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--tool",
            metavar="NAME",
            help="Also what an annotation tool asks for: label-studio, x-anylabeling, samgeo. May "
            "be repeated.",
            rich_help_panel=TOOLS,
        ),
    ] = None,
    background: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="How pixels of none of the words are found where a tool does not say, as for "
            "`wordmask segment`.",
            rich_help_panel=TOOLS,
        ),
    ] = "auto",
    label_studio: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of Label Studio, from which uploaded pictures are fetched, with the token in "
            "$LABEL_STUDIO_API_KEY.",
            show_default="nothing is fetched",
            rich_help_panel=TOOLS,
        ),
    ] = None,
    label_studio_files: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, if it is on this machine too.",
            rich_help_panel=TOOLS,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="litserve|ray",
            help="What runs the workers: LitServe on this machine, or Ray Serve on a cluster.",
            rich_help_panel=WORKERS,
        ),
    ] = "litserve",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of a Ray cluster, as in 10.0.0.1:6379.",
            show_default="a Ray of this machine alone",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    max_bytes: Annotated[int, _count("Of a picture's file.", LIMITS)] = 20 * 2**20,
    max_pixels: Annotated[int, _count("Of a picture.", LIMITS)] = 25_000_000,
    max_words: Annotated[int, _count("Names of classes and background.", LIMITS)] = 1000,
    max_options: Annotated[int, _count("Options of methods and refiners.", LIMITS)] = 20,
    max_seconds: Annotated[int, _count("Until the answer.", LIMITS, "SECONDS")] = 60,
    max_requests: Annotated[
        int, _count("At once; one more is told to come again (429).", LIMITS)
    ] = 64,
    keep: Annotated[int, _count("At most.", KEPT)] = 1000,
    keep_bytes: Annotated[int, _count("Of all together.", KEPT)] = 2**30,
    keep_seconds: Annotated[int, _count("Then they are gone.", KEPT, "SECONDS")] = 600,
    store: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Where they lie; for this service alone.",
            show_default="a temporary one",
            rich_help_panel=KEPT,
        ),
    ] = "",
) -> None:
    """Serve other programs and annotation tools over HTTP.

    wordmask serve --model wordmask/tiny-clip --port 8000

    The OpenAPI document is at /openapi.json, a page to try it at /docs. Requests choose words,
    method, refiners and options; networks are those that are named here. Ctrl+C or SIGTERM ends it
    when the requests that it took are answered.
    """
    from wordmask.serve.launch import ENGINES
    from wordmask.serve.launch import serve as start

    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if address and engine != "ray":
        raise WordmaskError("got --address, which is of a Ray cluster; add --engine ray")
    sizes = read_exported(backend, method, model)
    if batch is None and sizes is not None:
        batch = 1  # pictures go one by one
    elif batch is None:
        from wordmask.devices import pick_device

        batch = 8 if engine == "ray" or pick_device(model.device).type != "cpu" else 1
    at_least_one = {
        "--batch": batch,
        "--max-bytes": max_bytes,
        "--max-pixels": max_pixels,
        "--max-words": max_words,
        "--max-seconds": max_seconds,
        "--max-requests": max_requests,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise WordmaskError(f"got {name} {value}; give 1 or more")
    if not 1024 <= port <= 65535:
        raise WordmaskError(f"got --port {port}; give one of 1024 to 65535")

    from wordmask import integrations
    from wordmask.onnx.runtime import read_about
    from wordmask.serve.engine import Recipe
    from wordmask.serve.limits import Limits

    also = also or []
    refiners: Any = ()
    if sizes is not None:
        name, variant, options = read_about(model.model)["method"], None, sizes
        for one in also:
            read_about(one)
    else:
        built, variant = method.read(model.model)
        refiners = method.read_refiners()
        name, options = built.name, built.options()
    recipe = Recipe(
        model.model,
        tuple(also),
        name,
        variant,
        options,
        tuple((one.name, one.options()) for one in refiners),
        model.sources,
        model.device,
        model.dtype,
        model.offline,
        Limits(max_bytes, max_pixels, max_words, max_options, max_seconds, max_requests),
        store,
        keep_bytes,
        keep,
        keep_seconds,
    )
    routers = integrations.routers(tool or (), name, background, label_studio, label_studio_files)
    start(
        recipe,
        host,
        port,
        engine=engine,
        workers=workers,
        batch=batch,
        wait=batch_wait / 1000,
        address=address,
        keys=key or (),
        origins=origin or (),
        routers=routers,
    )
