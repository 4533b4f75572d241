"""The OpenAPI document: complete, and the service does what it says."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from serving import MODEL

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from waiting import LONG
from wordmask.serve.app import create_app
from wordmask.serve.service import Here

load_all_checks()


@pytest.fixture(scope="module")
def api(engine):
    app = create_app(Here(engine), engine.recipe)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


# a schema cannot say which text is a picture, and which handle was given out
UNSAID = [check for check in CHECKS.get_all() if check.__name__ == "positive_data_acceptance"]
BRIEF = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_service_does_what_its_document_says(api, mode):
    """Requests that the document allows, and others: every answer is one that it promises."""
    tried = set()
    for result in api.get_all_operations():
        operation = result.ok()

        @BRIEF
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            case.call_and_validate(excluded_checks=UNSAID)
            tried.add(case.path)

        with suppress(Unsatisfiable):  # nothing can be wrong with a GET
            check()
    posts = {"/v1/segment", "/v1/encode", "/v1/score"}
    assert tried >= posts
    assert mode is GenerationMode.NEGATIVE or tried == set(api.raw_schema["paths"])


def test_the_document_is_complete(engine):
    document = create_app(Here(engine), engine.recipe).openapi()
    posts = {path: one["post"] for path, one in document["paths"].items() if "post" in one}
    assert set(posts) >= {"/v1/segment", "/v1/encode", "/v1/score"}
    for one in posts.values():
        assert "example" in one["requestBody"]["content"]["application/json"]
        assert {"200", "401", "413", "415", "422", "429", "503", "504"} <= set(one["responses"])
        assert one["summary"]
        assert one["description"]
    text = str(document)
    for reference in [part.split("'")[0] for part in text.split("#/components/schemas/")[1:]]:
        assert reference in document["components"]["schemas"]


def test_its_examples_are_answered(serve):
    served = serve()
    document = httpx.get(served.url + "/openapi.json", timeout=LONG).json()
    for path in ("/v1/segment", "/v1/encode"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        example = content["application/json"]["example"]
        answer = httpx.post(served.url + path, json=example, timeout=LONG)
        assert answer.status_code == 200, answer.text
    assert MODEL in httpx.get(served.url + "/v1/methods", timeout=LONG).text
