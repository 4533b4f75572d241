"""Workers by Ray Serve: replicas on the machines of a cluster, which take requests in batches."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import secrets
from contextlib import ExitStack
from typing import Any

from wordmask.batch.on_ray import joined
from wordmask.serve.app import create_app, run_app
from wordmask.serve.engine import Answer, Ask, Recipe
from wordmask.serve.limits import Problem
from wordmask.serve.store import Store, dump

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

        self.serve, self.name = serve, f"wordmask-{secrets.token_hex(4)}"  # others may be there
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        recipe = dataclasses.replace(recipe, guarded=True)
        self.store = RayStore.start(recipe)
        deployment: Any = serve.deployment(
            _replica(batch, wait),
            name="networks",
            num_replicas=workers,
            max_ongoing_requests=4 * batch,
            max_queued_requests=recipe.limits.requests,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
            graceful_shutdown_timeout_s=recipe.limits.seconds,
        )
        serve.start(proxy_location="Disabled")
        self.handle = serve.run(
            deployment.bind(recipe, self.store), name=self.name, route_prefix=None
        )

    def ready(self) -> bool:
        """See `Backend`."""
        return self.serve.status().applications[self.name].status == "RUNNING"

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
        self.serve.delete(self.name)
        self._ends.close()


class RayStore(Store):
    """The encodings of all machines, in the folder of one of them."""

    def __init__(self, actor: Any, seconds: float):
        self.actor, self.seconds = actor, seconds

    @classmethod
    def start(cls, recipe: Recipe) -> RayStore:
        """Start the actor that has the folder."""
        import ray

        made = ray.remote(num_cpus=0)(Store).remote(
            recipe.store, recipe.kept_bytes, recipe.kept, recipe.kept_seconds
        )
        return cls(made, recipe.kept_seconds)

    def put(self, handle: str, owner: str, value: Any) -> None:
        """See `Store`."""
        self._get(self.actor.put.remote(handle, owner, dump(value)))

    def get(self, handle: str, owner: str) -> Any:
        """See `Store`."""
        return pickle.loads(self._get(self.actor.get.remote(handle, owner)))

    def held(self) -> tuple[int, int]:
        """See `Store`."""
        found: tuple[int, int] = self._get(self.actor.held.remote())
        return found

    def _get(self, answer: Any) -> Any:
        import ray

        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def _replica(batch: int, wait: float) -> Any:
    """The class of a replica, whose batches are of this size."""
    from ray import serve

    class Networks:
        def __init__(self, recipe: Recipe, store: RayStore):
            self.engine = recipe.load(store)

        @serve.batch(max_batch_size=batch, batch_wait_timeout_s=wait)
        async def run(self, asks: list[Ask]) -> list[Answer]:
            import asyncio

            return await asyncio.to_thread(self.engine.run, asks)

    return Networks


def run_on_ray(
    recipe: Recipe,
    host: str,
    port: int,
    workers: int,
    batch: int,
    wait: float,
    address: str | None,
    **app: Any,
) -> None:
    """Serve until SIGTERM or Ctrl+C, as `on_litserve.run_on_litserve`; address: of a cluster."""
    gpus = 1 if recipe.device and recipe.device.startswith("cuda") else 0
    backend = OnRay(recipe, address, workers, batch, wait, gpus)
    try:
        run_app(create_app(backend, recipe, **app), host, port, recipe.limits)
    finally:
        backend.stop()
