"""Label Studio, X-AnyLabeling and samgeo ask the service as their own clients do."""

from __future__ import annotations

import base64
import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the service is not installed (extra serve)")
pytest.importorskip("httpx", reason="the client is not installed (extra client)")

from fastapi.testclient import TestClient

from wordmask import Segmenter
from wordmask.errors import WordmaskError
from wordmask.integrations import label_studio, routers
from wordmask.serve.app import create_app
from wordmask.serve.engine import Recipe
from wordmask.serve.service import Here

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
CONFIG = """<View><Image name="photo" value="$picture"/>
<BrushLabels name="parts" toName="photo">
<Label value="red ball" hint="crimson ball"/><Label value="grass"/></BrushLabels></View>"""


def png(pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


URI = "data:image/png;base64," + base64.b64encode(png()).decode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    store = str(tmp_path_factory.mktemp("encodings"))
    return Recipe("wordmask/tiny-clip", method="naclip", offline=True, store=store).load()


@pytest.fixture(scope="module")
def expected():
    return Segmenter.from_pretrained("wordmask/tiny-clip", "naclip")(
        PIXELS, [["red ball", "crimson ball"], "grass"], "none"
    )


def client(engine, tool: str, keys=(), **more) -> TestClient:
    made = routers([tool], "naclip", "none", **more)
    return TestClient(create_app(Here(engine), engine.recipe, keys=keys, routers=made))


# -- Label Studio ----------------------------------------------------------------------------------


def ask_studio(service: TestClient, picture: str, **headers):
    body = {
        "tasks": [{"id": 5, "data": {"picture": picture}}],
        "project": "1.2",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    return service.post("/predict", json=body, headers=headers)


def test_label_studio_gets_its_own_brush_strokes(engine, expected):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    service = client(engine, "label-studio")
    assert service.get("/health").json()["status"] == "UP"
    setup = {"project": "1.2", "schema": CONFIG, "hostname": "http://a", "access_token": "b"}
    version = service.post("/setup", json=setup).json()["model_version"]
    answer = ask_studio(service, URI)
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"]
    assert prediction["model_version"] == version
    assert 0 < prediction["score"] <= 1
    assert interface.LabelInterface(CONFIG).validate_prediction(prediction)
    for stroke in prediction["result"]:
        assert (stroke["from_name"], stroke["to_name"]) == ("parts", "photo")
        mask = brush.decode_rle(stroke["value"]["rle"]).reshape(48, 64, 4)[..., 3] > 0
        (name,) = stroke["value"]["brushlabels"]
        assert (mask == expected.mask(name)).all()
    assert len(prediction["result"]) == len(expected.found)
    assert service.post("/webhook", json={"action": "START_TRAINING"}).status_code == 200


def test_label_studio_pictures_of_its_folder(engine, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    service = client(engine, "label-studio", label_studio_files=tmp_path / "in")
    assert ask_studio(service, "/data/local-files/?d=a%20b.png").status_code == 200
    for other in ("../secret.png", "/etc/passwd", "no.png"):
        answer = ask_studio(service, f"/data/local-files/?d={other}")
        assert answer.status_code == 422
        assert "no such picture" in answer.json()["error"]["message"]


def test_label_studio_pictures_of_its_address_alone(engine, monkeypatch):
    asked = []

    class Studio(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Studio)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
        address = f"http://127.0.0.1:{server.server_port}"
        service = client(engine, "label-studio", label_studio=address)
        assert ask_studio(service, "/data/upload/1/a.png").status_code == 200
        assert asked == [("/data/upload/1/a.png", "Token token")]
        for other in ("http://169.254.169.254/a", "file:///etc/passwd", "http://127.0.0.1:1/a"):
            refused = ask_studio(service, other)
            assert refused.status_code == 422
        for odd in ("@127.0.0.1:1/a", f"{address}/a?b=1"):  # what follows the host is no host
            assert ask_studio(service, odd).status_code == 200
        assert [path for path, _ in asked[1:]] == ["/@127.0.0.1:1/a", "/a?b=1"]
        more = '<RectangleLabels name="b" toName="photo"><Label value="x"/></RectangleLabels>'
        two = CONFIG.replace("</View>", f"{more}</View>")
        tasks = [{"data": {"picture": "/c"}}]
        assert service.post("/predict", json={"tasks": tasks, "label_config": two}).is_success
        assert len(asked) == 4  # a picture is fetched once for all sets of labels
        alone = ask_studio(client(engine, "label-studio"), "/data/upload/1/a.png")
        assert "no picture is fetched" in alone.text
        assert len(asked) == 4
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "config",
    [
        "",
        "<View/>",
        "<View><Image name='a' value='$b'/></View>",
        "no XML",
        CONFIG.replace('toName="photo"', 'toName="other"'),
    ],
)
def test_label_studio_without_brush_labels(engine, config):
    service = client(engine, "label-studio")
    body = {"tasks": [{"data": {"picture": URI}}], "label_config": config}
    answer = service.post("/predict", json=body)
    assert answer.status_code == 422
    assert "label_config" in answer.json()["error"]["message"]


def test_label_studio_polygons_boxes_and_aliases(engine, expected):
    """Every set of labels of the interface; `alias` names a label in results, and is no word."""
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    pytest.importorskip("skimage")
    labels = """<Label value="red ball" alias="x1" hint="crimson ball"/><Label value="grass"/>"""
    config = '<View><Image name="photo" value="$picture"/>'
    for tag in ("Polygon", "Rectangle", "Brush"):
        config += f'<{tag}Labels name="{tag}" toName="photo">{labels}</{tag}Labels>'
    config += "</View>"
    body = {"tasks": [{"id": 5, "data": {"picture": URI}}], "label_config": config}
    (prediction,) = client(engine, "label-studio").post("/predict", json=body).json()["results"]
    assert interface.LabelInterface(config).validate_prediction(prediction)
    shown = {"x1": "red ball", "grass": "grass"}
    boxes, parts = [], expected.regions(components=True)
    for one in prediction["result"]:
        assert one["type"] == f"{one['from_name']}Labels".lower()
        (label,) = one["value"][one["type"]]
        if one["type"] == "rectanglelabels":
            sides = [one["value"][key] for key in ("x", "y", "width", "height")]
            boxes.append(
                [round(side * n / 100) for side, n in zip(sides, (64, 48) * 2, strict=True)]
            )
        elif one["type"] == "polygonlabels":
            points = np.array(one["value"]["points"]) * (64, 48) / 100
            box = [*points.min(0), *points.max(0)]
            near = [np.abs(np.subtract(box, part.box)).max() <= 1 for part in parts]
            assert shown[label] in [part.name for part, ok in zip(parts, near, strict=True) if ok]
    assert sorted(boxes) == sorted(list(one.xywh) for one in parts)


def test_label_studio_asks_again_for_tasks_without_prediction(engine, monkeypatch):
    """A task that fails, or for which there is no time, leaves the others their predictions."""
    service = client(engine, "label-studio")
    tasks = [{"id": i, "data": {"picture": one}} for i, one in enumerate(["data:,x", URI, URI])]
    body = {"tasks": tasks, "label_config": CONFIG}
    results = service.post("/predict", json=body).json()["results"]
    assert [bool(one) for one in results] == [False, True, True]
    clock = iter([0.0, 0.0, 0.0, 50.0, 50.0])  # the second task took 50 of 60 seconds
    monkeypatch.setattr(label_studio, "time", SimpleNamespace(time=lambda: next(clock)))
    results = service.post("/predict", json=body).json()["results"]
    assert [bool(one) for one in results] == [False, True, False]


@pytest.mark.parametrize("picture", ["http://[::1", "data:image/png;base64,\xe9", "data:,x"])
def test_label_studio_says_what_is_wrong_with_a_picture(engine, picture):
    answer = ask_studio(client(engine, "label-studio"), picture)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("the task's picture: ")


def test_words_name_no_file_of_the_service(engine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("secret\n")
    shapes = ask_labeling(client(engine, "x-anylabeling"), text_prompt="words.txt").text
    found = ask_samgeo(client(engine, "samgeo"), png(), "json", prompt="words.txt").text
    for answer in (shapes, found):
        assert "words.txt" in answer
        assert "secret" not in answer


def test_label_studio_gives_its_key_as_a_password(engine):
    service = client(engine, "label-studio", keys=["secret"])
    assert ask_studio(service, URI).status_code == 401
    basic = base64.b64encode(b"anyone:secret").decode()
    assert ask_studio(service, URI, Authorization=f"Basic {basic}").status_code == 200


# -- X-AnyLabeling ---------------------------------------------------------------------------------


def ask_labeling(service: TestClient, model="wordmask-naclip", image=URI, **params):
    values = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.0, **params}
    body = {"model": model, "image": image, "params": values}
    return service.post("/v1/predict", json=body)


def test_x_anylabeling_gets_polygons(engine, expected):
    service = client(engine, "x-anylabeling")
    models = service.get("/v1/models").json()["data"]
    assert next(iter(models)) == "wordmask-naclip"
    assert "edit_text" in {one["name"] for one in models["wordmask-naclip"]["widgets"]}
    answer = ask_labeling(service, text_prompt="red ball, crimson ball; grass")
    assert answer.status_code == 200, answer.text
    shapes = answer.json()["data"]["shapes"]
    areas = dict.fromkeys(expected.names, 0.0)
    for shape in shapes:
        assert shape["shape_type"] == "polygon"
        assert shape["points"][0] == shape["points"][-1]
        x, y = np.array(shape["points"][:-1]).T
        areas[shape["label"]] += abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert areas == {name: float(expected.mask(name).sum()) for name in expected.names}
    fine = sum(len(one["points"]) for one in shapes)
    rough = ask_labeling(service, text_prompt="red ball; grass", epsilon_factor=0.05).json()
    assert sum(len(one["points"]) for one in rough["data"]["shapes"]) < fine
    sure = ask_labeling(service, text_prompt="red ball; grass", conf_threshold=1.0).json()
    assert not sure["data"]["shapes"]


def test_x_anylabeling_chooses_a_method_and_sends_its_key(engine):
    service = client(engine, "x-anylabeling")
    assert ask_labeling(service, "wordmask-clearclip", text_prompt="grass, ball").status_code == 200
    assert ask_labeling(service, "wordmask-no", text_prompt="grass").status_code == 422
    assert "text_prompt" in ask_labeling(service).text
    for image in ("%%", "data:image/png;base64,\xe9"):
        assert ask_labeling(service, image=image, text_prompt="grass").status_code == 422
    service = client(engine, "x-anylabeling", keys=["secret"])
    assert service.get("/v1/models").status_code == 401
    assert service.get("/v1/models", headers={"Token": "secret"}).status_code == 200


# -- samgeo ----------------------------------------------------------------------------------------


def geotiff(dtype: str = "uint8") -> bytes:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "height": 48, "width": 64, "count": 3, "dtype": dtype}
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(500, 900, 2, 2)}
    with rasterio.io.MemoryFile() as file:
        with file.open(**profile, **place) as picture:
            picture.write(PIXELS.transpose(2, 0, 1).astype(dtype))
        return file.read()


def ask_samgeo(service: TestClient, content: bytes, output: str, **more):
    data = {"prompt": "red ball; grass", "output_format": output, "confidence_threshold": "0"}
    return service.post("/segment/text", files={"file": ("a.tif", content)}, data=data | more)


def test_samgeo_gets_masks_with_their_place(engine, expected):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.features import rasterize

    service = client(engine, "samgeo")
    segmenter = Segmenter.from_pretrained("wordmask/tiny-clip", "naclip")
    labels = segmenter(PIXELS, ["red ball", "grass"], "none").labels
    answer = ask_samgeo(service, geotiff(), "geotiff")
    assert answer.status_code == 200, answer.text
    with rasterio.io.MemoryFile(answer.content) as file, file.open() as picture:
        assert picture.crs.to_epsg() == 32633
        assert picture.transform.c == 500
        assert (picture.read(1) == labels).all()
        transform = picture.transform
    found = ask_samgeo(service, geotiff(), "geojson").json()
    assert found["crs"]["properties"]["name"].endswith(":32633")
    shapes = [(one["geometry"], one["properties"]["value"]) for one in found["features"]]
    assert (rasterize(shapes, (48, 64), transform=transform) == labels).all()
    assert (
        np.asarray(Image.open(io.BytesIO(ask_samgeo(service, png(), "png").content))) == labels
    ).all()
    flat = ask_samgeo(service, png(), "json").json()
    assert flat["num_detections"] == len(shapes)
    boxes = ask_samgeo(service, png(), "detections").json()
    assert "crs" not in boxes
    assert len(boxes["features"]) == len(shapes)


def test_samgeo_leaves_out_what_is_small_or_unsure(engine):
    service = client(engine, "samgeo")
    nothing = ask_samgeo(service, png(), "json", min_size="100000")
    assert nothing.status_code == 404
    assert "nothing was found" in nothing.json()["error"]["message"]
    assert ask_samgeo(service, png(), "svg").status_code == 422
    assert ask_samgeo(service, b"no picture", "json").status_code == 415
    assert "save it as 8-bit RGB" in ask_samgeo(service, geotiff("uint16"), "json").text
    assert service.get("/health").json()["status"] == "ok"
    assert service.get("/models").json()["loaded"] == [["wordmask", "naclip"]]


def test_an_unknown_tool():
    with pytest.raises(WordmaskError, match="did you mean label-studio"):
        routers(["labelstudio"], "naclip")


def test_documents_of_all_tools_are_valid(engine):
    pytest.importorskip("rasterio")
    tools = ["label-studio", "x-anylabeling", "samgeo"]
    app = create_app(Here(engine), engine.recipe, routers=routers(tools, "naclip"))
    paths = TestClient(app).get("/openapi.json").json()["paths"]
    assert {"/predict", "/v1/predict", "/segment/text", "/v1/segment"} <= {*paths}
