"""Starting the service, with or without workers."""

from __future__ import annotations

import logging
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.serve.engine import Recipe
from wordmask.serve.logs import log_json_lines
from wordmask.towers.built_in import note

log = logging.getLogger("wordmask.serve")

ENGINES = ("litserve", "ray")


def serve(
    recipe: Recipe,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    engine: str = "litserve",
    workers: int = 1,
    batch: int = 8,
    wait: float = 0.005,
    address: str | None = None,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    routers: Sequence[Any] = (),
) -> None:
    """Serve until SIGTERM or Ctrl+C; what was taken by then is answered first.

    Args:
        recipe: networks, methods and limits; without a `store`, encodings go when it ends.
        engine: what runs the workers, of `ENGINES`.
        workers: processes (Ray: replicas) with the networks; 0: this process, one request at a
            time.
        batch, wait: requests in a batch, and seconds until one that is not full begins.
        address: of a Ray cluster; None: a Ray of this machine alone.
        keys, origins, routers: as for `app.create_app`.

    Raises:
        WordmaskError: a missing package, a network that cannot be loaded, an address in use.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        need(package, "serve", "the service")
    _check_free(host, port)
    temporary = None if recipe.store else tempfile.mkdtemp(prefix="wordmask-serve-")
    recipe = replace(recipe, store=recipe.store or temporary or "")
    recipe.make_store()  # refuses a folder that others may write into
    common: dict[str, Any] = {"keys": keys, "origins": origins, "routers": routers}
    log_json_lines()
    log.info("starting", extra={"about": {"url": f"http://{host}:{port}", "model": recipe.model}})
    if known := note(recipe.model):
        log.warning(known)
    try:
        if engine == "ray":
            need("ray", "ray", "--engine ray")
            from wordmask.serve.on_ray import run_on_ray

            run_on_ray(recipe, host, port, max(workers, 1), batch, wait, address, **common)
        elif workers:
            need("litserve", "serve", "the service")
            from wordmask.serve.on_litserve import run_on_litserve

            run_on_litserve(recipe, host, port, workers, batch, wait, **common)
        else:
            from wordmask.serve.app import create_app, run_app
            from wordmask.serve.service import Here

            app = create_app(Here(recipe.load()), recipe, **common)
            run_app(app, host, port, recipe.limits)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be served at, in one line."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WordmaskError(f"cannot serve at {host}:{port}: {reason}") from None
