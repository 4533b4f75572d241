"""Batches, the encodings that are kept, and what happens when there is too much."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from serving import WORDS, picture, png

from waiting import LONG, soon
from wordmask import Background, Segmentation, Vocabulary
from wordmask.errors import WordmaskError
from wordmask.serve import engine as engine_module
from wordmask.serve.engine import (
    AS_STARTED,
    WATCHER,
    Ask,
    Encoded,
    How,
    _ended_at,
    _Late,
    problem_of,
)
from wordmask.serve.limits import Limits, Problem
from wordmask.serve.store import Store, dump


def ask(seed: int = 0, words=WORDS, size=(48, 64), **changes) -> Ask:
    asked = Ask(AS_STARTED, picture(seed, *size), Vocabulary(words), Background.none())
    return Ask(**{**vars(asked), **changes})


def test_a_bad_request_leaves_its_batch_mates_alone(engine, offline):
    batch = [
        ask(0),
        ask(1, how=How(options=(("nothing", 1),))),
        ask(2, size=(32, 80)),
        ask(3, ["tree"], how=How(method="gem")),
        ask(4, deadline=time.time() - 1),
        Ask(words=Vocabulary(["dog"]), handle="nobody's", owner="me"),
        ask(5),
    ]
    answers = engine.run(batch)
    assert [getattr(one, "status", 200) for one in answers] == [200, 422, 200, 200, 504, 404, 200]
    for one, answer in zip(batch, answers, strict=True):
        if isinstance(answer, Segmentation):
            method = offline if one.how == AS_STARTED else offline.with_method("gem")
            assert (answer.labels == method(one.image, one.words, "none").labels).all()


def test_a_picture_that_breaks_the_pass_breaks_its_own_alone(engine, monkeypatch, offline):
    segmenter = engine.segmenter(AS_STARTED)
    encode = type(segmenter).encode_prepared

    def broken(self, prepared, *rest):
        if any((one.image[0, 0] == 7).all() for one in prepared):
            raise RuntimeError("the network does not like it")
        return encode(self, prepared, *rest)

    monkeypatch.setattr(type(segmenter), "encode_prepared", broken)
    bad = np.full((48, 64, 3), 7, np.uint8)
    answers = engine.run([ask(0), ask(image=bad), ask(1)])
    assert [getattr(one, "status", 200) for one in answers] == [200, 500, 200]
    assert "network" not in answers[1].message  # that is for the log
    assert (answers[2].labels == offline(picture(1), WORDS, "none").labels).all()


def test_pictures_of_one_method_are_encoded_together(engine, monkeypatch):
    segmenter, sizes = engine.segmenter(AS_STARTED), []
    encode = type(segmenter).encode_prepared

    def watched(self, prepared, *rest):
        sizes.append(len(prepared))
        return encode(self, prepared, *rest)

    monkeypatch.setattr(type(segmenter), "encode_prepared", watched)
    engine.run([ask(i) for i in range(4)])
    assert sizes == [4]


def test_memory_that_runs_out_is_told(engine, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(engine.segmenter(AS_STARTED)), "encode_each", full)
    (answer,) = engine.run([ask()])
    assert answer.status == 503
    assert "memory" in answer.message


def test_what_is_kept_ready_is_bounded(engine):
    from wordmask.serve.engine import MOST_SEGMENTERS, MOST_TEXTS

    for i in range(40):
        how = How(options=(("logit_scale", 20.0 + i), ("templates", "single")))
        engine._begin(ask(words=[f"word {i}"], how=how))
    assert len(engine._segmenters) <= MOST_SEGMENTERS
    assert len(engine._texts) <= MOST_TEXTS


def test_words_of_requests_do_not_fill_the_disk(engine, monkeypatch, tmp_path):
    assert engine.segmenter(AS_STARTED).text.cache_dir is None
    assert engine.segmenter(How(method="gem")).text.cache_dir is None


def test_networks_of_the_service_alone(make):
    other = make(networks={})
    other.recipe = replace(other.recipe, model="wordmask/tiny-clip")
    other.segmenter(How(refine=("vfm",)))  # the built-in network brings its own
    with pytest.raises(Problem, match="needs a sam"):
        other.segmenter(How(refine=("sam",)))


# -- encodings ------------------------------------------------------------------------------------


def test_encodings_are_bounded_in_bytes_number_and_age(tmp_path):
    store = Store(tmp_path / "kept", most_bytes=5000, most=3, seconds=60)
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0

    def age(seconds: float) -> None:
        for one in store.folder.iterdir():
            os.utime(one, (one.stat().st_mtime - seconds,) * 2)

    for i in range(5):
        age(1)
        store.put(f"handle {i}", "me", bytes(1000))
    assert store.held()[0] == 3
    with pytest.raises(Problem) as caught:
        store.get("handle 1", "me")
    assert caught.value.status == 404
    assert store.get("handle 4", "me") == bytes(1000)
    store.put("large", "me", bytes(4000))
    assert store.held()[0] == 1
    with pytest.raises(Problem) as caught:
        store.put("larger", "me", bytes(6000))
    assert caught.value.status == 413
    age(61)
    with pytest.raises(Problem):
        store.get("large", "me")
    store.put("new", "me", b"")
    assert store.held()[0] == 1  # what was too old is gone


def test_a_folder_that_others_may_write_into_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(WordmaskError, match="others may write"):
        Store(tmp_path)


def test_owner_and_handle_do_not_run_together(tmp_path):
    store = Store(tmp_path)
    store.put("a", "b c", 1)
    for handle, owner in (("a b", "c"), ("a", "b"), ("b c", "a")):
        with pytest.raises(Problem):
            store.get(handle, owner)


def test_a_picture_of_a_batch_is_kept_without_the_others():
    batch = torch.zeros(100, 1000)
    assert len(dump(batch[:1])) < 10_000


def test_an_encoding_serves_another_process(engine, offline):
    pictures = [picture(i) for i in range(2)]
    asks = [Ask(image=one, handle=f"h{i}", owner="me") for i, one in enumerate(pictures)]
    made = engine.run(asks)
    assert all(isinstance(one, Encoded) for one in made)
    other = engine.recipe.make_store()  # as another worker has it
    how, encoding = other.get("h1", "me")
    assert how == AS_STARTED
    assert (
        offline(encoding, WORDS, "none").labels == offline(picture(1), WORDS, "none").labels
    ).all()


# -- too much -------------------------------------------------------------------------------------


class Slow:
    """A backend that answers when it is told."""

    def __init__(self, engine):
        self.engine, self.store = engine, engine.store
        self.go, self.asked = threading.Event(), 0

    def ready(self) -> bool:
        return self.go.is_set()

    async def submit(self, one):
        self.asked += 1
        while not self.go.is_set():
            await asyncio.sleep(0.01)
        return self.engine.run([one])[0]


def send(url, answers):
    fields = {"data": {"words": "dog"}, "files": {"image": png(picture())}}
    answers.append(httpx.post(url + "/v1/segment", timeout=LONG, **fields))


def test_a_full_service_says_when_to_come_again(serve, make):
    made = make(limits=Limits(requests=2))
    slow = Slow(made)
    served, answers = serve(slow, made), []
    assert httpx.get(served.url + "/health/ready", timeout=LONG).status_code == 503
    assert httpx.get(served.url + "/health/live", timeout=LONG).status_code == 200
    threads = [threading.Thread(target=send, args=(served.url, answers)) for _ in range(2)]
    for one in threads:
        one.start()
    soon(lambda: slow.asked == 2)
    refused = []
    send(served.url, refused)
    assert refused[0].status_code == 429
    assert refused[0].headers["retry-after"] == "1"
    slow.go.set()
    for one in threads:
        one.join()
    assert [one.status_code for one in answers] == [200, 200]
    send(served.url, refused)
    assert refused[1].status_code == 200


def test_a_request_that_takes_too_long_is_told(serve, make):
    made = make(limits=Limits(seconds=0.2, requests=1))
    slow = Slow(made)
    served, answers = serve(slow, made), []
    send(served.url, answers)
    assert answers[0].status_code == 504
    assert "0.2 seconds" in answers[0].json()["error"]["message"]
    slow.go.set()
    vars(made.recipe.limits)["seconds"] = LONG  # however slow this machine is
    send(served.url, answers)  # its place is free again
    assert answers[1].status_code == 200


def test_a_request_without_end_is_ended(make):
    """The networks are free again, in a service without workers too."""
    made = make(limits=Limits(seconds=2))
    how = How(refine=("pamr",), options=(("pamr.steps", 10**9),))
    begun = time.time()
    asks = [
        Ask(how, picture(), Vocabulary(["dog"]), Background.none(), deadline=begun + 2),
        Ask(image=picture(), words=Vocabulary(["dog"]), deadline=begun + LONG),
    ]
    (late,), (other,) = made.run(asks[:1]), made.run(asks[1:])
    assert late.status == 504
    assert "took too long" in late.message
    assert other.names == ("dog",)


def watchers() -> list[threading.Thread]:
    """What would throw into a thread."""
    return [one for one in threading.enumerate() if one.name == WATCHER]


def test_a_request_that_is_late_from_the_start_leaves_nothing_behind(engine):
    """The exception that ends a batch was thrown while it began, and every second for ever."""
    (late,) = engine.run([ask(deadline=time.time() - 1)])
    assert late.status == 504
    assert "waited too long" in late.message
    assert not watchers()


def test_what_is_thrown_at_the_end_is_caught(monkeypatch):
    class Told(threading.Event):
        calls = 0

        def set(self):
            self.calls += 1
            if self.calls == 1:
                raise _Late
            super().set()

    monkeypatch.setattr(engine_module, "threading", SimpleNamespace(**vars(threading)))
    monkeypatch.setattr(engine_module.threading, "Event", Told)
    with _ended_at(time.time() + LONG):
        assert len(watchers()) == 1
    assert not watchers()


def test_what_is_thrown_between_requests_ends_them_all(engine, monkeypatch):
    def late(asks):
        raise _Late

    monkeypatch.setattr(engine, "_run", late)
    assert [one.status for one in engine.run([ask(0), ask(1)])] == [504, 504]


def test_no_library_takes_the_end_for_an_error_of_its_own(engine, monkeypatch):
    def endless(ask):
        for _ in range(1000):
            with suppress(Exception):
                time.sleep(0.01)

    monkeypatch.setattr(engine, "_begin", endless)
    assert engine.run([ask(deadline=time.time())])[0].status == 504


def test_the_problem_of_a_late_request_goes_between_processes():
    problem = pickle.loads(pickle.dumps(problem_of(_Late())))
    assert (problem.status, problem.message[:24]) == (504, "the request took too lon")


def test_a_client_that_is_told_to_come_again_does(serve, make, monkeypatch):
    from wordmask import client

    made = make(limits=Limits(requests=1))
    slow = Slow(made)
    served, answers = serve(slow, made), []
    thread = threading.Thread(target=send, args=(served.url, answers))
    thread.start()
    soon(lambda: slow.asked)
    waited = []

    def wait(seconds):
        waited.append(seconds)
        slow.go.set()
        thread.join()

    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=wait))
    asker = client.Client(served.url, timeout=LONG)
    assert asker.segment(picture(), "dog").names == ("dog",)
    assert set(waited) == {1.0}
