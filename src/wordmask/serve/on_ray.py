"""Workers by Ray Serve: replicas on the machines of a cluster, which take requests in batches."""

from __future__ import annotations

import dataclasses
import logging
import os
from contextlib import ExitStack
from typing import Any

from wordmask.batch.on_ray import joined
from wordmask.serve.engine import Answer, Ask, Recipe
from wordmask.serve.limits import Problem

APP = "wordmask"
TRIES = 3


class OnRay:
    """The backend of a cluster.

    Args:
        address: of the cluster; None: a Ray of this machine alone, started for it.
        workers: replicas, each with the networks.
        batch, wait: requests in a batch, and seconds until one that is not full begins.
        gpus: of each replica.
    """

    def __init__(
        self,
        recipe: Recipe,
        address: str | None,
        workers: int,
        batch: int,
        wait: float,
        gpus: float = 0,
    ):
        self._ends = ExitStack()
        self._ends.enter_context(joined(address))
        from ray import serve

        self.serve = serve
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        recipe = dataclasses.replace(recipe, guarded=True)
        deployment = serve.deployment(
            _replica(batch, wait),
            name="networks",
            num_replicas=workers,
            max_ongoing_requests=4 * batch,
            max_queued_requests=recipe.limits.requests,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
            graceful_shutdown_timeout_s=recipe.limits.seconds,
        )
        serve.start(proxy_location="Disabled")
        self.handle = serve.run(deployment.bind(recipe, os.getcwd()), name=APP, route_prefix=None)

    def ready(self) -> bool:
        """See `Backend`."""
        return self.serve.status().applications[APP].status == "RUNNING"

    async def submit(self, ask: Ask) -> Answer:
        """See `Backend`."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        for _ in range(TRIES):
            try:
                answer: Answer = await self.handle.run.remote(ask)
                return answer
            except BackPressureError:
                return Problem(429, "all workers are busy; try again soon", after=1)
            except RayActorError:
                continue
        return Problem(500, f"the service failed {TRIES} times at this request")

    def stop(self) -> None:
        """End the replicas; they finish what they have."""
        self.serve.delete(APP)
        self._ends.close()


def _replica(batch: int, wait: float) -> Any:
    """The class of a replica, whose batches are of this size."""
    from ray import serve

    class Networks:
        def __init__(self, recipe: Recipe, folder: str):
            self.engine = recipe.load()

        @serve.batch(max_batch_size=batch, batch_wait_timeout_s=wait)
        async def run(self, asks: list[Ask]) -> list[Answer]:
            import asyncio

            return await asyncio.to_thread(self.engine.run, asks)

    return Networks
