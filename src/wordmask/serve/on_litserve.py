"""Workers by LitServe: processes that hold the networks and take requests in batches.

LitServe collects the batches, and starts a worker again that has died. What it does not do is done
here: it answers a batch as a whole, so that `Engine.run` returns problems and raises none; and it
forgets the requests of a worker that has died, so that they are sent again when there is another.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import time
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import litserve
import litserve.server
from litserve.utils import ResponseBufferItem

from wordmask.errors import WordmaskError
from wordmask.serve.app import create_app
from wordmask.serve.engine import Answer, Ask, Recipe, problem_of
from wordmask.serve.limits import Problem
from wordmask.serve.logs import log_json_lines

TRIES = 3  # more than these and it is taken to be what kills workers
FAILED = "failed"  # a file that says why no worker could start
LOOK = 1.0  # seconds between looks at who is alive


# It would make a server of MCP too, and fails beside mcp 2
litserve.server._MCP_AVAILABLE = False


class Networks(litserve.LitAPI):
    """A worker."""

    def __init__(self, recipe: Recipe, batch: int, wait: float):
        with warnings.catch_warnings():  # of `batch` without batches, among lines of JSON
            warnings.simplefilter("ignore")
            super().__init__(max_batch_size=batch, batch_timeout=wait, api_path="/ask")
        self.recipe = recipe

    def setup(self, device: str) -> None:
        """Load the networks, and leave a sign of life in the folder of encodings."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the process that drains
        log_json_lines()
        folder = Path(self.recipe.store)
        try:
            self.engine = self.recipe.load()
        except WordmaskError as error:
            (folder / FAILED).write_text(str(error), encoding="utf-8")
            logging.getLogger("litserve").setLevel(logging.CRITICAL + 1)  # it is told in one line
            raise
        (folder / f"{uuid.uuid4().hex}.born").touch(mode=0o600)

    def predict(self, asks: Any) -> Any:
        """Answers of a batch."""
        batch = asks if isinstance(asks, list) else [asks]
        answers = self.engine.run(batch)
        return answers if isinstance(asks, list) else answers[0]

    def batch(self, inputs: list[Any]) -> list[Any]:
        """As they are: pictures differ in size."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """As they are."""
        return output

    def decode_request(self, request: Ask, **_: Any) -> Ask:
        """As it is."""
        return request

    def encode_response(self, output: Answer, **_: Any) -> Answer:
        """As it is."""
        return output


class OnLitServe:
    """The backend of a LitServe server; workers: how many it has."""

    def __init__(self, server: Any, recipe: Recipe, workers: int):
        self.server, self.workers, self.store = server, workers, recipe.make_store()

    def ready(self) -> bool:
        """See `Backend`."""
        states = dict(self.server.workers_setup_status)
        return any(getattr(state, "value", state) == "ready" for state in states.values())

    def _replaced(self) -> int:
        """How many workers came after one that died."""
        return max(sum(1 for _ in self.store.folder.glob("*.born")) - self.workers, 0)

    async def submit(self, ask: Ask) -> Answer:
        """See `Backend`; asked again when a worker has died meanwhile."""
        for _ in range(TRIES):
            before, answer = self._replaced(), asyncio.create_task(self._once(ask))
            try:
                while not answer.done():
                    await asyncio.wait({answer}, timeout=LOOK)
                    if self._replaced() > before and not answer.done():
                        break
                else:
                    return answer.result()
            finally:
                answer.cancel()
        return Problem(500, f"the service failed {TRIES} times at this request")

    async def _once(self, ask: Ask) -> Answer:
        uid, item = uuid.uuid4().hex, ResponseBufferItem(asyncio.Event())
        self.server.response_buffer[uid] = item
        try:
            queue = self.server.litapi_request_queues["/ask"]
            await asyncio.to_thread(queue.put, (0, uid, time.monotonic(), ask))
            await item.event.wait()
            answer, _ = item.response
            if isinstance(answer, Exception) and not isinstance(answer, Problem):
                return problem_of(answer)
            return answer
        finally:
            self.server.response_buffer.pop(uid, None)


def run_on_litserve(
    recipe: Recipe, host: str, port: int, workers: int, batch: int, wait: float, **app: Any
) -> None:
    """Serve until SIGTERM or Ctrl+C; what was taken by then is answered first.

    Args:
        workers: processes with the networks.
        batch, wait: requests in a batch, and seconds until one that is not full begins.
        app: as for `create_app`.

    Raises:
        WordmaskError: workers cannot start.
    """
    recipe = replace(recipe, guarded=True)
    server = litserve.LitServer(
        Networks(recipe, batch, wait),
        accelerator="cpu",  # the workers place the networks themselves
        workers_per_device=workers,
        timeout=False,
        restart_workers=True,
    )
    server.uvicorn_graceful_timeout = int(recipe.limits.seconds) + 1
    for old in Path(recipe.store).glob("*.born"):
        old.unlink()
    backend = OnLitServe(server, recipe, workers)
    server.app = create_app(backend, recipe, lifespan=server.lifespan, **app)
    main = os.getpid()

    def stop(*_: Any) -> None:
        """Let the process that has the connections finish, before LitServe ends the workers."""
        if os.getpid() != main:  # that process inherits this handler
            raise SystemExit
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        for child in multiprocessing.active_children():
            if child.name.startswith("LitServer-"):
                child.terminate()
                child.join(recipe.limits.seconds + 1)
        raise KeyboardInterrupt

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)
    try:
        server.run(
            host=host,
            port=port,
            num_api_servers=1,
            generate_client_file=False,
            log_level="error",
            pretty_logs=False,
            log_config=None,
            access_log=False,
        )
    except RuntimeError:
        failed = Path(recipe.store) / FAILED
        if failed.is_file():
            raise WordmaskError(failed.read_text(encoding="utf-8")) from None
        raise
    finally:  # workers that were still starting
        for child in multiprocessing.active_children():
            child.kill()
