"""A client of `wordmask serve`; it needs httpx and no torch.

client = Client("http://127.0.0.1:8000")
result = client.segment("coffee.jpg", ["cup", "spoon", ["table", "table top"]])
result.overlay("coffee.jpg").save("overlay.png")
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.images import read_image
from wordmask.segmentation import Segmentation

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
Words = str | Sequence[str | Sequence[str]]


class ServiceError(WordmaskError):
    """What the service answered in place of a result.

    Attributes:
        status: of HTTP.
        received: what the service says that it received, or None.
        request_id: under which its log has more.
    """

    def __init__(self, status: int, message: str, received: str | None, request_id: str):
        got = "" if received is None else f" (received: {received})"
        super().__init__(f"{message}{got}")
        self.status, self.received, self.request_id = status, received, request_id


@dataclass(frozen=True)
class Encoded:
    """A picture that the service has encoded and keeps for its owner.

    Attributes:
        encoding, owner: the handle, and the secret that goes with it.
        height, width: of the picture.
        patches: rows and columns.
        seconds: how long it is kept at most.
    """

    encoding: str
    owner: str
    height: int
    width: int
    patches: tuple[int, int]
    seconds: float


class Client:
    """Speaks to one service; may be used as a context.

    Args:
        url: of the service.
        key: an API key, if it wants one.
        timeout: seconds to wait for an answer.
        tries: how often a request is sent while the service is full (429) or starts (503).
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        timeout: float = 120.0,
        tries: int = 5,
        transport: Any = None,
    ):
        httpx = need("httpx", "client", "the client")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.tries = tries
        self._failed: type[Exception] = httpx.TransportError
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(
        self,
        image: Picture,
        words: Words,
        background: str | Sequence[str] = "auto",
        *,
        method: str | None = None,
        variant: str | None = None,
        refine: str | Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> Segmentation:
        """Label a picture with words; what is None is as the service was started.

        Args:
            image: a path, the content of a file, a PIL image or a uint8 array (H, W, 3).
            words: names or lists of synonyms, or a text as `wordmask segment --classes` takes it.
            background: as `wordmask segment --background` takes it, or a list of names.

        Returns:
            A `Segmentation` with labels, names, scores and provenance.

        Raises:
            ServiceError: the service has no result; its message says why.
            WordmaskError: the service cannot be reached.
        """
        return _read(
            self.raw(
                "npz",
                image,
                words,
                background,
                method=method,
                variant=variant,
                refine=refine,
                options=options,
                model=model,
            )
        )

    def raw(
        self,
        answer: str,
        image: Picture,
        words: Words,
        background: str | Sequence[str] = "auto",
        **choice: Any,
    ) -> bytes:
        """As `segment`, in the service's own words: "rle", "polygons", "list", "png" or "npz"."""
        fields = {"answer": answer, **_words(words, background), **_choice(choice)}
        return self._post("/v1/segment", data=fields, files={"image": _file(image)})

    def encode(
        self,
        image: Picture,
        *,
        owner: str | None = None,
        method: str | None = None,
        variant: str | None = None,
        refine: str | Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> Encoded:
        """Encode a picture once, for `score` with any words; arguments as for `segment`.

        owner: a secret of yours; None: the service makes one.
        """
        choice = {"method": method, "variant": variant, "refine": refine}
        fields = _choice({**choice, "options": options, "model": model})
        headers = {} if owner is None else {"X-Owner-Token": owner}
        files = {"image": _file(image)}
        made = json.loads(self._post("/v1/encode", data=fields, files=files, headers=headers))
        return Encoded(**{**made, "patches": tuple(made["patches"])})

    def score(
        self, encoded: Encoded, words: Words, background: str | Sequence[str] = "auto"
    ) -> Segmentation:
        """Label a picture that was encoded; `words` and `background` as for `segment`."""
        asked = {"encoding": encoded.encoding, "words": words, "background": background}
        headers = {"X-Owner-Token": encoded.owner}
        return _read(self._post("/v1/score", json={**asked, "answer": "npz"}, headers=headers))

    def methods(self) -> dict[str, Any]:
        """Networks and methods of the service, with their options."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/v1/methods"))
        return found

    def refiners(self) -> list[dict[str, Any]]:
        """Refiners of the service, with their options."""
        found: list[dict[str, Any]] = json.loads(self._ask("GET", "/v1/refiners"))["refiners"]
        return found

    def ready(self) -> bool:
        """Whether the service can be reached and answers requests."""
        try:
            return bool(self._http.get("/health/ready").status_code == 200)
        except self._failed:
            return False

    def _post(self, path: str, **request: Any) -> bytes:
        return self._ask("POST", path, **request)

    def _ask(self, verb: str, path: str, **request: Any) -> bytes:
        for left in reversed(range(self.tries)):
            try:
                answer = self._http.request(verb, path, **request)
            except self._failed as error:
                raise WordmaskError(
                    f"no answer from {self._http.base_url}: {error or type(error).__name__}"
                ) from None
            if answer.status_code not in (429, 503) or not left:
                break
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        if answer.status_code == 200:
            return bytes(answer.content)
        try:
            detail = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            detail = {"message": f"{answer.status_code} {answer.reason_phrase}"}
        raise ServiceError(
            answer.status_code,
            detail["message"],
            detail.get("received"),
            detail.get("request_id", ""),
        )


def _file(image: Picture) -> tuple[str, bytes]:
    """A picture as a file of a form."""
    if isinstance(image, bytes):
        return "picture", image
    if isinstance(image, (str, os.PathLike)):
        try:
            return Path(image).name, Path(image).read_bytes()
        except OSError as error:
            raise WordmaskError(f"cannot read {os.fspath(image)}: {error.strerror}") from None
    file = io.BytesIO()
    Image.fromarray(read_image(image)).save(file, "PNG", compress_level=1)
    return "picture.png", file.getvalue()


def _words(words: Words, background: str | Sequence[str]) -> dict[str, str]:
    return {
        "words": words if isinstance(words, str) else json.dumps(list(words)),
        "background": background if isinstance(background, str) else json.dumps(list(background)),
    }


def _choice(given: Mapping[str, Any]) -> dict[str, str]:
    found = {key: value for key, value in given.items() if value is not None}
    if "options" in found:
        found["options"] = json.dumps(dict(found["options"]))
    if not isinstance(found.get("refine", ""), str):
        found["refine"] = json.dumps(list(found["refine"]))
    return found


def _read(content: bytes) -> Segmentation:
    """A result from its arrays."""
    with np.load(io.BytesIO(content)) as arrays:
        names, provenance = tuple(arrays["names"].tolist()), json.loads(arrays["provenance"].item())
        return Segmentation(arrays["labels"], names, arrays["scores"], provenance)
