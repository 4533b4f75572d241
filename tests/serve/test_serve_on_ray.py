"""Ray Serve on a cluster of this machine, under the same application."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread

import pytest
from serving import MODEL, WORDS, picture

from waiting import LONG, soon
from wordmask.client import Client
from wordmask.serve.engine import Recipe
from wordmask.serve.limits import Limits

pytest.importorskip("ray.serve", reason="needs wordmask[serve,ray]")
psutil = pytest.importorskip("psutil")

pytestmark = pytest.mark.slow


@pytest.fixture
def address():
    """A cluster of one node; nothing of it is left afterwards."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=node)
    except Exception as error:  # no shared memory, no ports
        pytest.skip(f"Ray cannot start here: {error}")
    yield cluster.address
    cluster.shutdown()


def replicas(name: str) -> list:
    """The processes that hold the networks of an application."""
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if f"ServeReplica:{name}:" in " ".join(one.info["cmdline"] or ())
    ]


def test_the_same_application_on_a_cluster(address, serve, offline, engine, tmp_path):
    from wordmask.serve.on_ray import OnRay

    limits = Limits(seconds=LONG)
    recipe = Recipe(
        MODEL, method="naclip", offline=True, limits=limits, store=str(tmp_path / "kept")
    )
    backend = OnRay(recipe, address, workers=2, batch=4, wait=0.01)
    try:
        made = replace(engine.recipe, limits=limits, store=recipe.store)
        served = serve(backend, type("", (), {"recipe": made}))
        client, answers = Client(served.url, timeout=2 * LONG), {}
        active = served.app.state.metrics.active._value

        def ask(seed):
            answers[seed] = client.segment(picture(seed), WORDS, "none").labels

        soon(lambda: client.ready() and len(replicas(backend.name)) == 2)
        threads = [Thread(target=ask, args=(seed,)) for seed in range(8)]
        for one in threads:
            one.start()
        soon(lambda: active.get() or answers)
        replicas(backend.name)[0].kill()  # with requests on their way
        for one in threads:
            one.join()
        assert len(answers) == 8
        for seed, labels in answers.items():
            assert (labels == offline(picture(seed), WORDS, "none").labels).all()
        encoded = client.encode(picture(1))
        want = offline(picture(1), ["dog"]).labels
        for _ in range(4):  # whichever replica it is
            assert (client.score(encoded, ["dog"]).labels == want).all()
        assert backend.store.held()[0] == 1
    finally:
        backend.stop()
    assert not psutil.wait_procs(replicas(backend.name), timeout=LONG)[1]
