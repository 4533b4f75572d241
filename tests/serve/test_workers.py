"""What is asked of LitServe's workers, and what comes of requests whose worker died."""

from __future__ import annotations

import asyncio
import faulthandler
from types import SimpleNamespace

import pytest
from serving import picture

from wordmask import Vocabulary
from wordmask.serve.engine import AS_STARTED, Ask
from wordmask.serve.limits import Limits, Problem

on_litserve = pytest.importorskip("wordmask.serve.on_litserve", reason="litserve is missing")


class Queue:
    """Stands for the workers: one dies at each of the first requests, then another answers."""

    def __init__(self, server, store, deaths: int):
        self.server, self.store, self.deaths, self.asked = server, store, deaths, 0

    def put(self, item):
        _, uid, _, ask = item
        self.asked += 1
        if self.asked <= self.deaths:
            (self.store.folder / f"{self.asked}.born").touch()
            return
        waiting = self.server.response_buffer[uid]
        waiting.response = (f"the answer to {ask.handle}", "OK")
        self.loop.call_soon_threadsafe(waiting.event.set)


@pytest.mark.parametrize(("deaths", "asked"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_a_request_whose_worker_died_is_asked_again(engine, tmp_path, monkeypatch, deaths, asked):
    monkeypatch.setattr(on_litserve, "LOOK", 0.01)
    recipe = SimpleNamespace(make_store=lambda: SimpleNamespace(folder=tmp_path))
    server = SimpleNamespace(response_buffer={}, workers_setup_status={"ask_0": "ready"})
    backend = on_litserve.OnLitServe(server, recipe, workers=0)
    queue = Queue(server, backend.store, deaths)
    server.litapi_request_queues = {"/ask": queue}

    async def ask():
        queue.loop = asyncio.get_running_loop()
        answer = await backend.submit(Ask(handle="this"))
        await asyncio.sleep(0.01)
        return answer

    answer = asyncio.run(ask())
    assert queue.asked == asked
    if deaths < on_litserve.TRIES:
        assert answer == "the answer to this"
    else:  # it is taken to be what kills them
        assert isinstance(answer, Problem)
        assert answer.status == 500
    assert not server.response_buffer  # nothing is left behind
    assert backend.ready()


def test_a_batch_that_never_ends_ends_its_worker(make, monkeypatch):
    calls = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, exit: calls.append((seconds, exit))
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("done"))
    make(guarded=True, limits=Limits(seconds=7)).run(
        [Ask(AS_STARTED, picture(), Vocabulary(["dog"]))]
    )
    assert calls == [(14, True), "done"]
