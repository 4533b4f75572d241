"""The routes: every form of request and answer, equal to what the library says."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import WORDS, picture, png

from waiting import LONG, soon
from wordmask import Segmentation
from wordmask.client import Client, ServiceError


@pytest.fixture
def served(serve):
    return serve()


def post(served, path="/v1/segment", headers=None, **request):
    return httpx.post(served.url + path, headers=headers, timeout=LONG, **request)


def get(served, path):
    return httpx.get(served.url + path, timeout=LONG)


def options(served, headers):
    return httpx.options(served.url + "/v1/segment", headers=headers, timeout=LONG)


def form(**fields):
    return {"data": {"words": "dog; cat", **fields}, "files": {"image": ("a.png", png(picture()))}}


def error(answer) -> dict:
    """What every error looks like."""
    (detail,) = answer.json().values()
    assert set(detail) == {"status", "message", "received", "request_id"}
    assert detail["status"] == answer.status_code
    assert detail["request_id"] == answer.headers["x-request-id"]
    assert len(detail["message"].splitlines()) == 1
    return detail


def test_every_form_of_answer_is_the_result_of_the_library(served, offline):
    pixels = picture(3)
    want = offline(pixels, WORDS, "none")
    client = Client(served.url)

    got = client.segment(pixels, WORDS, "none")
    assert got.names == want.names
    assert (got.labels == want.labels).all()
    assert np.allclose(got.scores, want.scores, atol=1e-6)
    assert got.provenance == json.loads(want.to_json())["provenance"]

    labels = Image.open(io.BytesIO(client.raw("png", pixels, WORDS, "none")))
    assert (np.asarray(labels) == want.labels).all()

    from pycocotools import mask as coco

    answer = json.loads(client.raw("rle", pixels, WORDS, "none"))
    assert (answer["height"], answer["width"]) == want.labels.shape
    assert answer["words"] == list(want.names)
    assert answer["provenance"]["method"] == "naclip"
    assert [one["name"] for one in answer["regions"]] == [one.name for one in want.regions()]
    for one in answer["regions"]:
        assert (coco.decode(one["segmentation"]).astype(bool) == want.mask(one["name"])).all()

    listed = json.loads(client.raw("list", pixels, WORDS, "none"))
    assert {one["label"] for one in listed} == set(want.found)
    for one in listed:  # as transformers' pipelines: a mask of 0 and 255
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["mask"]))))
        assert (mask == want.mask(one["label"]) * 255).all()
        assert isinstance(one["score"], float)

    outlines = json.loads(client.raw("polygons", pixels, WORDS, "none"))
    assert {one["properties"]["name"] for one in outlines["features"]} == set(want.found)
    (x, y), *_ = outlines["features"][0]["geometry"]["coordinates"][0][0]
    assert 0 <= x <= 64
    assert 0 <= y <= 48


def test_json_and_form_are_the_same_request(served):
    choice = {"method": "gem", "refine": ["pamr"], "options": {"pamr.steps": 2}}
    asked = {"image": base64.b64encode(png(picture())).decode(), "words": WORDS}
    asked |= {"background": ["sky"], **choice}
    one = post(served, json=asked)
    fields = {"words": "red circle; dog, puppy; blue square", "background": "names:sky"}
    fields |= {"method": "gem", "refine": "pamr", "options": '{"pamr.steps": 2}'}
    other = post(served, **form(**fields))
    assert one.status_code == other.status_code == 200, one.text
    assert one.json() == other.json()
    provenance = one.json()["provenance"]
    assert provenance["method"] == "gem"
    assert provenance["refiners"][0] | {"name": "pamr", "steps": 2} == provenance["refiners"][0]


def test_base64_as_browsers_and_shells_write_it(served):
    content = png(picture())
    plain = base64.b64encode(content).decode()
    answers = [
        post(served, json={"image": image, "words": "dog; cat"}).json()
        for image in (
            plain,
            f"data:image/png;base64,{plain}",
            base64.encodebytes(content).decode(),
        )
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["words"] == ["dog", "cat"]


def test_who_hangs_up_is_no_failure(served, caplog):
    begun = b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    address = served.url.removeprefix("http://").split(":")
    with caplog.at_level("INFO", logger="wordmask.serve"):
        with socket.create_connection((address[0], int(address[1]))) as left:
            left.sendall(begun + b"Content-Length: 99\r\n\r\n{")
        soon(lambda: any(one.message == "request" for one in caplog.records))
    assert [(one.message, one.about["status"]) for one in caplog.records] == [("request", 499)]


def test_encode_once_ask_many_times(served, offline):
    client, pixels = Client(served.url), picture(5)
    encoded = client.encode(pixels)
    assert (encoded.height, encoded.width) == pixels.shape[:2]
    for words in (["dog", "cat"], ["tree"], WORDS):
        want = offline(pixels, words)
        assert (client.score(encoded, words).labels == want.labels).all()
    mine = client.encode(pixels, owner="a secret of mine")
    assert mine.owner == "a secret of mine"
    for stranger in ("", "another"):
        asked = {"encoding": mine.encoding, "words": "dog"}
        answer = post(served, "/v1/score", {"X-Owner-Token": stranger}, json=asked)
        assert answer.status_code == 404
        assert error(answer)["received"] == mine.encoding


def test_what_can_be_chosen(served):
    client = Client(served.url)
    found = client.methods()
    assert found["default"] == {"model": "wordmask/tiny-clip", "method": "naclip", "variant": None}
    assert found["models"] == ["wordmask/tiny-clip"]
    gem = next(one for one in found["methods"] if one["name"] == "gem")
    assert {"variants", "options", "paper", "summary"} <= set(gem)
    assert "pamr" in {one["name"] for one in client.refiners()}


BAD = [
    (415, "not a picture", form() | {"files": {"image": ("a.jpg", b"hello")}}),
    (422, "truncated", form() | {"files": {"image": ("a.png", png(picture())[:-60])}}),
    (422, "the picture is empty", form() | {"files": {"image": ("a.png", b"")}}),
    (422, "there is no picture", {"data": {"words": "dog"}, "files": {"other": (None, "x")}}),
    (422, "Too many files", form() | {"files": {"image": ("a", b"x"), "words": ("w", b"x")}}),
    (415, "multipart/form-data", {"content": b"hello", "headers": {"Content-Type": "text/plain"}}),
    (422, "Invalid JSON", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    (422, "not base64", {"json": {"image": "http://example.org/a.png", "words": "dog"}}),
    (422, "not base64", {"json": {"image": "data:image/png;base64,\xe9", "words": "dog"}}),
    (422, "unknown field 'path'", {"json": {"image": "AAAA", "words": "dog", "path": "/etc"}}),
    (422, "did you mean words", {"json": {"image": "AAAA", "wrds": "dog", "words": "dog"}}),
    (422, "Names, or lists of synonyms", {"json": {"image": "AAAA"}}),
    (422, "words: Input should be a valid string. Names", {"json": {"image": "AA", "words": 5}}),
    (
        422,
        "words.0: String should have at most 200",
        {"json": {"image": "AA", "words": ["a" * 201]}},
    ),
    (422, "options.logit_scale: Input should be a finite", form(options='{"logit_scale": NaN}')),
    (422, "not JSON", form(words="[" * 200_000)),
    (422, "options", form(options=r'{"\ud800": 1}')),
    (422, "refine", form(refine=r'["\ud800"]')),
    (422, "the name 'dog' is in class", form(words="dog; dog")),
    (422, "unknown background", form(background="sky")),
    (422, "unknown method", form(method="nothing")),
    (422, "pattern", form(method="my.py:Mine")),
    (422, "pattern", form(refine="my.py:Mine")),
    (422, "unknown variant", form(variant="nothing")),
    (422, "unknown option", form(options='{"nothing": 1}')),
    (422, "short_side", form(options='{"short_side": "wide"}')),
    (422, "not among the refiners", form(options='{"pamr.steps": 2}')),
    (422, "templates are one of", form(options='{"templates": "/etc/passwd"}')),
    (422, "more than", form(options='{"short_side": 100000, "long_side": 100000}')),
    (422, "larger stride", form(options='{"short_side": 1200, "window": 64, "stride": 1}')),
    (422, "no such model", form(model="openai/clip-vit-base-patch16")),
    (422, "no such model", form(model="/etc")),
    (422, "needs a sam", form(refine="sam")),
    (422, "answer", form(answer="jpeg")),
]


@pytest.mark.parametrize(("status", "message", "request_"), BAD)
def test_a_bad_request_is_told_why(served, status, message, request_):
    answer = post(served, **request_)
    assert (answer.status_code, message in error(answer)["message"]) == (status, True), answer.text


def test_other_paths_and_verbs_have_the_same_errors(served):
    assert error(get(served, "/nothing"))["status"] == 404
    assert error(get(served, "/v1/segment"))["status"] == 405


def test_limits(serve, make):
    from wordmask.serve.limits import Limits

    limits = Limits(bytes=3000, pixels=5000, words=4, options=1)
    served = serve(made=make(limits=limits))
    ok = form(words="dog, puppy; cat", background="names:sky")
    assert post(served, **ok).status_code == 200
    for status, message, bad in (
        (413, "bytes", form() | {"files": {"image": ("a.png", bytes(4000))}}),
        (
            413,
            "at most 5,000 pixels",
            form() | {"files": {"image": ("a", png(picture(0, 80, 80)))}},
        ),
        (413, "bytes", {"content": bytes(limits.body + 1)}),
        (422, "at most 4 names", form(words="a; b; c; d, e")),
        (422, "at most 4 names", form(words="a; b; c", background="names:d;e")),
        (422, "characters", form(words="a" * 201)),
        (422, "at most 1 options", form(options='{"short_side": 64, "long_side": 64}')),
    ):
        answer = post(served, **bad)
        assert (answer.status_code, message in error(answer)["message"]) == (status, True)

    def endless():
        for _ in range(100):
            yield bytes(2**16)

    kind = {"Content-Type": "application/json"}
    answer = post(served, content=endless(), headers=kind)  # no Content-Length
    assert answer.status_code == 413
    assert str(limits.body + 1)[0] in error(answer)["received"]


def test_keys(serve):
    served = serve(keys=["first", "second"])
    for headers in ({}, {"X-API-Key": "third"}, {"Authorization": "Bearer third"}):
        answer = post(served, headers=headers, **form())
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in error(answer)["message"]
    basic = base64.b64encode(b"anyone:second").decode()
    for headers in (
        {"X-API-Key": "first"},
        {"Authorization": "Bearer second"},
        {"Authorization": f"Basic {basic}"},
    ):
        assert post(served, headers=headers, **form()).status_code == 200
    odd = {b"Authorization": b"Basic \xe9"}
    assert post(served, headers=odd, **form()).status_code == 401
    assert get(served, "/health/live").status_code == 200
    assert get(served, "/metrics").status_code == 401
    with pytest.raises(ServiceError, match="API key"):
        Client(served.url).segment(picture(), "dog")
    # an owner's token alone is not enough: the key counts too
    encoded = Client(served.url, "first").encode(picture(), owner="token")
    with pytest.raises(ServiceError) as caught:
        Client(served.url, "second").score(encoded, "dog")
    assert caught.value.status == 404


def test_pages_of_other_origins_are_refused_unless_named(serve):
    ask = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    closed, opened = serve(), serve(origins=["https://example.org"], keys=["key"])
    assert "access-control-allow-origin" not in options(closed, ask).headers
    answer = options(opened, ask)
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    ask["Origin"] = "https://example.com"
    answer = options(opened, ask)
    assert "access-control-allow-origin" not in answer.headers


def test_ids_and_logs(served, caplog):
    from wordmask.serve.logs import JsonLines

    with caplog.at_level("INFO", logger="wordmask.serve"):
        answer = post(served, headers={"X-Request-ID": "mine-1"}, **form())
        other = post(served, headers={"X-Request-ID": "not an id!"}, **form(words=""))
    assert answer.headers["x-request-id"] == "mine-1"
    assert error(other)["request_id"] != "not an id!"
    lines = [json.loads(JsonLines().format(one)) for one in caplog.records]
    told = next(one for one in lines if one.get("status") == 200)
    assert (told["method"], told["path"], told["client"]) == ("POST", "/v1/segment", "127.0.0.1")
    assert told["received"] > 100
    assert told["sent"] == len(answer.content)
    assert "dog" not in json.dumps(lines)  # nobody's words


def test_metrics(served):
    post(served, **form())
    post(served, **form(words=""))
    get(served, "/a/path/of/ones/own")
    text = get(served, "/metrics").text
    assert 'wordmask_requests_total{method="POST",path="/v1/segment",status="200"} 1.0' in text
    assert 'wordmask_requests_total{method="POST",path="/v1/segment",status="422"} 1.0' in text
    assert 'path="other",status="404"' in text
    assert "wordmask_requests_active 0.0" in text
    assert "wordmask_encodings_bytes" in text


def test_the_client_says_what_is_wrong(served, tmp_path):
    from wordmask.errors import WordmaskError

    client = Client(served.url)
    assert client.ready()
    with pytest.raises(ServiceError) as caught:
        client.segment(picture(), "dog", options={"nothing": 1})
    assert caught.value.status == 422
    assert caught.value.request_id
    with pytest.raises(WordmaskError, match="cannot read"):
        client.segment(tmp_path / "none.jpg", "dog")
    with pytest.raises(WordmaskError, match="no answer from http"):
        Client("http://127.0.0.1:9").segment(picture(), "dog")
    assert not Client("http://127.0.0.1:9").ready()
    with pytest.raises(WordmaskError, match="cannot read an array of float64"):
        client.segment(picture() / 255, "dog")
    turned = Image.fromarray(picture())
    turned.getexif()[0x112] = 6  # as a phone held upright writes it
    assert client.segment(turned, "dog").labels.shape == (64, 48)
    client.segment(Image.fromarray(picture()).convert("CMYK"), "dog")
    file = tmp_path / "a.png"
    file.write_bytes(png(picture()))
    results = [client.segment(one, "dog; cat") for one in (file, str(file), file.read_bytes())]
    assert all(isinstance(one, Segmentation) for one in results)
    assert all((one.labels == results[0].labels).all() for one in results)


def test_client_and_application_load_no_torch():
    code = (
        "import sys, wordmask.client, wordmask.serve.app, wordmask.serve.launch; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
