"""The application: routes, what every request passes through, and the OpenAPI document.

A router of an annotation tool is added by `create_app(..., routers=[router])`. Its routes get the
`Service` by `service_of(request)`; limits, keys, ids, logs and the shape of errors are there.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wordmask.errors import WordmaskError, unknown
from wordmask.onnx.runtime import is_exported
from wordmask.segmentation import Segmentation
from wordmask.serve import schemas
from wordmask.serve.answers import FORMS
from wordmask.serve.engine import Recipe, describe_exported
from wordmask.serve.limits import Limits, Problem
from wordmask.serve.logs import REQUEST_ID
from wordmask.serve.service import DEADLINE, Backend, Service, too_late
from wordmask.version import __version__

Asked = TypeVar("Asked", bound=BaseModel)

log = logging.getLogger("wordmask.serve")

OPEN = ("/health/live", "/health/ready", "/docs", "/openapi.json")  # without a key
ID = re.compile(r"[\w.-]{1,64}")
KIND = re.compile(r"(str|int|float|bool)$|\w+-|list\[|\[key\]")  # where pydantic names a kind
STATUSES = {
    401: "There is no API key, or it is not known.",
    404: "There is no such encoding, or it is not yours.",
    413: "The picture or the request is too large.",
    415: "It is no picture, or no form and no JSON.",
    422: "The request cannot be used; the message says why.",
    429: "The service is full; try again after the seconds of `Retry-After`.",
    500: "The service failed; its log says why under the request's id.",
    503: "The service is not ready, or has not enough memory.",
    504: "There was no answer in time.",
}


def create_app(
    backend: Backend,
    recipe: Recipe,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    routers: Sequence[APIRouter] = (),
    lifespan: Any = None,
) -> FastAPI:
    """The application.

    Args:
        backend: where requests are answered.
        recipe: what the backend was made of.
        keys: API keys, one of which every request needs; none: no key is needed.
        origins: of pages whose scripts may use the service (CORS).
        routers: of annotation tools.
        lifespan: as for FastAPI.
    """
    app = FastAPI(
        title="wordmask",
        version=__version__,
        summary="Words in, masks out.",
        description="Labels each pixel of a picture with the word that it fits best.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = Service(backend, recipe.limits)
    app.state.recipe = recipe
    app.state.metrics = Metrics(backend)
    for router in (health, v1, *routers):
        app.include_router(router)
    for kind in (Problem, WordmaskError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(Gate, limits=recipe.limits, keys=keys, metrics=app.state.metrics)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    document = app.openapi
    app.openapi = lambda: _with_requests(document())  # type: ignore[method-assign]
    return app


def run_app(app: Any, host: str, port: int, limits: Limits) -> None:
    """Run an application until SIGTERM or Ctrl+C."""
    import uvicorn

    def leave(*_: Any) -> None:
        """End in order: uvicorn sends itself the signal again, which else kills at once."""
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )


def service_of(request: Request) -> Service:
    """The service, for the routes of any router."""
    found: Service = request.app.state.service
    return found


def titles_of(request: Request, method: str) -> dict[str, str]:
    """The titles of the methods that may be asked for, that of the service first."""
    if is_exported(request.app.state.recipe.model):
        return {method: method}
    from wordmask.methods import METHODS

    names = [method, *(name for name in sorted(METHODS) if name != method)]
    return {name: METHODS[name].title for name in names}


# -- what every request passes through ------------------------------------------------------------


class Metrics:
    """Numbers about requests, for Prometheus."""

    def __init__(self, backend: Backend):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: Any = {"registry": self.registry}
        self.requests = Counter(
            "wordmask_requests_total", "Requests answered.", ["path", "method", "status"], **own
        )
        self.seconds = Histogram(
            "wordmask_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["path"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            **own,
        )
        self.active = Gauge("wordmask_requests_active", "Requests being answered.", **own)
        kept = Gauge("wordmask_encodings", "Encodings that are kept.", **own)
        kept.set_function(lambda: backend.store.held()[0])
        size = Gauge("wordmask_encodings_bytes", "Bytes of encodings that are kept.", **own)
        size.set_function(lambda: backend.store.held()[1])


class Gate:
    """Ids, logs, numbers, keys, and the limits on bytes, seconds and requests at once.

    It looks at headers alone, and refuses before a body is read.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: Sequence[str], metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics
        self.keys = [_digest(key) for key in keys]
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        request_id = given if ID.fullmatch(given) else secrets.token_hex(8)
        REQUEST_ID.set(request_id)
        status, size, taken = 0, 0, 0

        async def told(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            size += len(message.get("body", b""))
            await send(message)

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limits.body:
                raise _too_large(taken, self.limits)
            return message

        try:
            self._check_key(scope, headers)
            if scope["method"] == "POST":
                await self._take(scope, headers, counted, told)
            else:
                await self.app(scope, counted, told)
        except Problem as problem:
            if not status:
                await _error(problem)(scope, receive, told)
        except ClientDisconnect:
            status = 499  # nobody is there to be answered
        except Exception:
            log.exception("a request failed")
            if not status:
                failed = Problem(500, "the request failed; the service's log says why")
                await _error(failed)(scope, receive, told)
        finally:
            seconds = time.perf_counter() - started
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, scope["method"], status).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            about = {
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
                "received": taken,
                "sent": size,
            }
            log.info("request", extra={"about": about})

    async def _take(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Answer a request that costs something."""
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.body:
            raise _too_large(int(length), self.limits)
        if self.active >= self.limits.requests:
            raise Problem(
                429, f"{self.active} requests are being answered; try again soon", after=1
            )
        self.active += 1
        self.metrics.active.inc()
        DEADLINE.set(time.time() + self.limits.seconds)
        try:
            await asyncio.wait_for(self.app(scope, receive, send), self.limits.seconds)
        except asyncio.TimeoutError:
            raise too_late(self.limits) from None
        finally:
            self.active -= 1
            self.metrics.active.dec()

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self.keys or scope["path"] in OPEN or scope["method"] == "OPTIONS":
            return
        key = _key(headers)
        found = [hmac.compare_digest(_digest(key), one) for one in self.keys]  # all, always
        if not any(found):
            what = "a key that is not known" if key else "no key"
            raise Problem(
                401, "give an API key, as in `Authorization: Bearer KEY` or `X-API-Key`", what
            )


def _key(headers: Headers) -> str:
    """The key of a request: of Bearer, the password of Basic (Label Studio), X-API-Key or Token."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2]
        except ValueError:  # no base64, or no UTF-8
            return ""
    if scheme.lower() == "bearer":
        return value.strip()
    return headers.get("x-api-key") or headers.get("token", "")  # Token: X-AnyLabeling


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _too_large(size: int, limits: Limits) -> Problem:
    return Problem(413, f"at most {limits.body:,} bytes are taken", f"{size:,} bytes or more")


def _error(problem: Problem) -> JSONResponse:
    detail = schemas.ErrorDetail(
        status=problem.status,
        message=problem.message,
        received=problem.received,
        request_id=REQUEST_ID.get(),
    )
    headers = {} if problem.after is None else {"Retry-After": str(problem.after)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": detail.model_dump()}, problem.status, headers)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Any error of a route in the one shape."""
    if isinstance(error.__cause__, Problem):  # FastAPI wraps what reading a body raises
        error = error.__cause__
    if isinstance(error, WordmaskError):
        error = Problem(422, str(error))
    elif isinstance(error, (RequestValidationError, ValidationError)):
        error = _invalid(error.errors(), {})
    elif isinstance(error, HTTPException):
        status = 422 if error.status_code == 400 else error.status_code  # a form that is damaged
        answer = _error(Problem(status, str(error.detail), request.url.path))
        answer.headers.update(error.headers or {})
        return answer
    assert isinstance(error, Problem)
    return _error(error)


def _invalid(errors: Sequence[Any], fields: Mapping[str, Any]) -> Problem:
    """The first of pydantic's errors; of several kinds that a value may be, of the one it is."""
    same = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    first = next((one for one in same if not one["type"].endswith("_type")), same[0])
    place = [str(one) for one in first["loc"] if one != "body" and not KIND.match(str(one))]
    if first["type"] == "extra_forbidden":
        return Problem(422, str(unknown("field", first["loc"][-1], fields)), first["input"])
    hint = fields[place[0]].description if place and place[0] in fields else ""
    message = f"{'.'.join(place) or 'the request'}: {first['msg']}"
    return Problem(422, f"{message}. {hint}" if hint else message, first["input"])


# -- reading requests -----------------------------------------------------------------------------


async def read_request(
    request: Request, json_kind: type[Asked], form_kind: type[BaseModel]
) -> tuple[Any, bytes]:
    """A request in JSON or as a form, checked, and the content of its picture."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        asked: Any = _validated(json_kind, await request.body())
        return asked, asked.content()
    if kind != "multipart/form-data":
        raise Problem(415, "give application/json or multipart/form-data", kind or "no type")
    async with request.form(max_files=1, max_fields=20) as form:
        fields: dict[str, Any] = {}
        picture = None
        for name, value in form.multi_items():
            if name in fields or (name == "image" and picture is not None):
                raise Problem(422, f"{name}: given more than once", name)
            if isinstance(value, UploadFile):
                if name != "image":
                    raise Problem(422, f"{name}: the picture is the only file", name)
                picture = await value.read()
            else:
                fields[name] = value
    if picture is None:
        raise Problem(422, "image: there is no picture in the form", ", ".join(fields))
    return _validated(form_kind, fields), picture


def _validated(kind: type[Asked], given: bytes | Mapping[str, Any]) -> Asked:
    try:
        if isinstance(given, bytes):
            return kind.model_validate_json(given)
        return kind.model_validate(given)
    except ValidationError as error:
        raise _invalid(error.errors(), kind.model_fields) from None


def owner_of(request: Request, token: str) -> str:
    """Whose an encoding is: a token, and the key of the request."""
    return f"{_key(request.headers)} {token}"


async def written(result: Segmentation, kind: str) -> Response:
    """A result in one of `answers.FORMS`."""
    content_type, write = FORMS[kind]
    return Response(await asyncio.to_thread(write, result), media_type=content_type)


# -- routes ---------------------------------------------------------------------------------------

health = APIRouter(tags=["health"])


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {one: {"model": schemas.ErrorAnswer, "description": STATUSES[one]} for one in statuses}


CHOICE = {"method": "naclip", "options": {"logit_scale": 40}}
WORDS = {"words": ["cup", "spoon", ["table", "table top"]], "background": "auto"}
EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    schemas.SegmentRequest: {"image": schemas.EXAMPLE, **WORDS, **CHOICE, "answer": "rle"},
    schemas.EncodeRequest: {"image": schemas.EXAMPLE, **CHOICE},
    schemas.ScoreRequest: {"encoding": "kD0c-2yTq1cXv9_w", **WORDS, "answer": "png"},
}


def _body(json_kind: type[BaseModel], form_kind: type[BaseModel] | None = None) -> dict[str, Any]:
    """The body of a request that a route reads itself, for the document."""
    content: dict[str, Any] = {
        "application/json": {"schema": _ref(json_kind), "example": EXAMPLES[json_kind]}
    }
    if form_kind is not None:
        file = {"type": "string", "format": "binary", "description": "The file of a picture."}
        content["multipart/form-data"] = {
            "schema": {
                "allOf": [_ref(form_kind)],
                "properties": {"image": file},
                "required": ["image"],
            }
        }
    return {"requestBody": {"required": True, "content": content}}


def _ref(kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


SEGMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.SegmentAnswer,
        "description": "The result, as `answer` asks for it.",
        "content": {
            "application/geo+json": {"schema": {"type": "object"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/x-npz": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@health.get("/health/live", summary="Whether the process runs")
async def live() -> dict[str, str]:
    """200 as long as the process answers at all."""
    return {"status": "ok"}


@health.get("/health/ready", summary="Whether requests are answered", responses=_errors(503))
async def ready(request: Request) -> dict[str, str]:
    """200 when the networks are loaded, else 503."""
    if not service_of(request).backend.ready():
        raise Problem(503, "the networks are not loaded yet")
    return {"status": "ok"}


@health.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=PlainTextResponse,
    responses=_errors(401),
)
async def metrics(request: Request) -> Response:
    """Requests, seconds, encodings that are kept, and the process."""
    found = generate_latest(request.app.state.metrics.registry)
    return Response(found, media_type=CONTENT_TYPE_LATEST)


v1 = APIRouter(prefix="/v1", tags=["segmentation"], responses=_errors(401))
COSTLY = (413, 415, 422, 429, 500, 503, 504)


@v1.post(
    "/segment",
    summary="Label a picture with words",
    response_class=Response,
    responses={**SEGMENTED, **_errors(*COSTLY)},
    openapi_extra=_body(schemas.SegmentRequest, schemas.SegmentForm),
)
async def segment(request: Request) -> Response:
    """A picture and words in, the pixels of each word out."""
    service = service_of(request)
    asked, picture = await read_request(request, schemas.SegmentRequest, schemas.SegmentForm)
    words, background = asked.read()
    result = await service.segment(picture, words, background, asked.how(service.limits))
    return await written(result, asked.answer)


@v1.post(
    "/encode",
    summary="Encode a picture once",
    responses=_errors(*COSTLY),
    openapi_extra=_body(schemas.EncodeRequest, schemas.EncodeForm),
)
async def encode(request: Request) -> schemas.EncodeAnswer:
    """The costly half, for `POST /v1/score` with any words.

    `X-Owner-Token` is a secret of yours; without one the service makes one.
    """
    service = service_of(request)
    token = _token(request) or secrets.token_urlsafe(24)
    asked, picture = await read_request(request, schemas.EncodeRequest, schemas.EncodeForm)
    made = await service.encode(picture, owner_of(request, token), asked.how(service.limits))
    return schemas.EncodeAnswer(
        encoding=made.handle,
        owner=token,
        height=made.height,
        width=made.width,
        patches=list(made.patches),
        seconds=made.seconds,
    )


@v1.post(
    "/score",
    summary="Label an encoded picture with words",
    response_class=Response,
    responses={**SEGMENTED, **_errors(404, *COSTLY)},
    openapi_extra={
        **_body(schemas.ScoreRequest),
        "parameters": [
            {
                "name": "X-Owner-Token",
                "in": "header",
                "required": True,
                "description": "The `owner` of the encoding.",
                "schema": {"type": "string", "maxLength": 200},
            }
        ],
    },
)
async def score(request: Request) -> Response:
    """Other words for a picture that was encoded: a fraction of the time of `POST /v1/segment`."""
    service = service_of(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "give application/json", kind or "no type")
    asked = _validated(schemas.ScoreRequest, await request.body())
    words, background = asked.read()
    owner = owner_of(request, _token(request, needed=True))
    result = await service.score(asked.encoding, owner, words, background)
    return await written(result, asked.answer)


def _token(request: Request, needed: bool = False) -> str:
    token = request.headers.get("x-owner-token", "")
    if needed and "x-owner-token" not in request.headers:
        raise Problem(422, "X-Owner-Token: give the `owner` of the encoding")
    if len(token) > 200:
        raise Problem(422, "X-Owner-Token: at most 200 characters are taken", token)
    return token


@v1.get("/methods", summary="Methods and networks")
async def list_methods(request: Request) -> dict[str, Any]:
    """What `model`, `method`, `variant` and `options` may be; `default`: what is left out."""
    recipe: Recipe = request.app.state.recipe
    models = [recipe.model, *recipe.models]
    default = {"model": recipe.model, "method": recipe.method, "variant": recipe.variant}
    if is_exported(recipe.model):
        found = describe_exported(models)
        default |= {"method": found[0]["name"], "variant": next(iter(found[0]["variants"]))}
        return {"models": models, "default": default, "methods": found}

    def described() -> list[Any]:
        from wordmask.methods import METHODS, Method

        return _described(METHODS, Method)

    methods = await asyncio.to_thread(described)
    return {"models": models, "default": default, "methods": methods}


@v1.get("/refiners", summary="Refiners")
async def list_refiners(request: Request) -> dict[str, Any]:
    """What `refine` may hold, and the options of each."""
    if is_exported(request.app.state.recipe.model):
        return {"refiners": []}

    def described() -> list[Any]:
        from wordmask.refiners import REFINERS, Refiner

        return _described(REFINERS, Refiner)

    return {"refiners": await asyncio.to_thread(described)}


def _described(registry: Mapping[str, Any], base: Any) -> list[Any]:
    from wordmask.options import describe

    return [describe(registry[name], base) for name in sorted(registry)]


def _with_requests(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the schemas of the bodies that routes read themselves."""
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for kind in (
        schemas.SegmentRequest,
        schemas.SegmentForm,
        schemas.EncodeRequest,
        schemas.EncodeForm,
        schemas.ScoreRequest,
    ):
        if kind.__name__ not in known:
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            known.update(schema.pop("$defs", {}))
            known[kind.__name__] = schema
    return document
