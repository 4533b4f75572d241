"""What requests and answers look like: the types of the OpenAPI document."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from wordmask.serve.engine import How
from wordmask.serve.limits import Limits, Problem
from wordmask.vocabulary import Background, Vocabulary

LONGEST = 200  # characters of a name
KINDS = ("rle", "polygons", "list", "png", "npz")

EXAMPLE = (  # a picture of 16 x 16 pixels, half red and half blue
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEXIKCgoWsgvXi4GAAAAEElEQVR42mNg+M/EwE"
    "A8AgAw0gEe0P1L1QAAAABJRU5ErkJggg=="
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
Part = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(:[A-Za-z0-9_.-]+)?$")]
Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(10**9), le=10**9)]
Value = bool | Whole | Number | Name | list[Whole | Number | Name] | None
Kind = Literal["rle", "polygons", "list", "png", "npz"]


def _read_json(value: Any) -> Any:
    """What a form writes as JSON text: a list or an object."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
    return value


def _read_parts(value: Any) -> Any:
    """`vfm,pamr` as a list."""
    value = _read_json(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def read_base64(text: str, place: str = "image") -> bytes:
    """The content of a file in base64: alone or in a data URI, in one line or several.

    place: the name of the field, for the message.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:  # no base64, or not ASCII
        message = f"{place}: not base64; give the content of a picture's file in base64"
        raise Problem(422, message, text) from None


class Strict(BaseModel):
    """Nothing is taken that is not named here."""

    model_config = ConfigDict(extra="forbid")


class Choice(Strict):
    """A network, method and refiners; what is left out is as the service was started."""

    model: Annotated[
        Name | None, Field(description="One of the service's networks, see `GET /v1/methods`.")
    ] = None
    method: Annotated[
        Part | None,
        Field(description="See `GET /v1/methods`; a variant after a colon.", examples=["naclip"]),
    ] = None
    variant: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] | None,
        Field(description="Of the method."),
    ] = None
    refine: Annotated[
        Annotated[list[Part], Field(max_length=8)] | None,
        BeforeValidator(_read_parts),
        Field(description="Refiners in order, see `GET /v1/refiners`.", examples=[["pamr"]]),
    ] = None
    options: Annotated[
        dict[Name, Value],
        BeforeValidator(_read_json),
        Field(
            description='Of the method, and of refiners as `"pamr.steps"`.',
            examples=[{"short_side": 224}],
        ),
    ] = {}

    def how(self, limits: Limits) -> How:
        """The choice as the engine takes it."""
        if len(self.options) > limits.options:
            raise Problem(422, f"at most {limits.options} options are taken", len(self.options))
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        refine = None if self.refine is None else tuple(self.refine)
        return How(self.model, self.method, self.variant, refine, tuple(sorted(options.items())))


class Words(Strict):
    """The classes to find, and what is background."""

    words: Annotated[
        str | list[Name | list[Name]],
        BeforeValidator(_read_json),
        Field(
            description="Names, or lists of synonyms; or a text with `;` between classes and `,` "
            "between synonyms.",
            examples=[["cup", "spoon", ["table", "table top"]], "cup; spoon; table, table top"],
        ),
    ]
    background: Annotated[
        str | list[Name],
        BeforeValidator(_read_json),
        Field(
            description="How pixels that show none of the words are found: `auto`, `none`, "
            "`threshold:0.3`, `complement:2`, `names:sky;wall`, or a list of names.",
            examples=["auto"],
        ),
    ] = "auto"

    def read(self) -> tuple[Vocabulary, Background]:
        """Words and background as the engine takes them."""
        text = self.words
        words = Vocabulary.parse(text) if isinstance(text, str) else Vocabulary(text)
        rule = self.background
        return words, Background.parse(rule) if isinstance(rule, str) else Background.of(rule)


def check_words(words: Vocabulary, background: Background, limits: Limits) -> None:
    """Refuse too many words, too long ones, and background that is one of the words."""
    names = [*words.queries, *background.distractors]
    if len(names) > limits.words:
        raise Problem(422, f"at most {limits.words:,} names are taken", f"{len(names):,} names")
    for name in names:
        if len(name) > LONGEST:
            raise Problem(422, f"a name has at most {LONGEST} characters", name)
    background.check(words)


class Picture(Strict):
    """A picture in JSON."""

    image: Annotated[
        str,
        Field(
            min_length=1,
            description="The file of a picture (JPEG, PNG, WebP, TIFF ...) in base64, or its data "
            "URI.",
            examples=[EXAMPLE],
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ]

    def content(self) -> bytes:
        """The bytes of the file."""
        return read_base64(self.image)


class Answered(Strict):
    """How the result is written."""

    answer: Annotated[
        Kind,
        Field(
            description="`rle`: COCO run lengths; `polygons`: GeoJSON in pixels; `list`: label, "
            "score and mask (PNG in base64) as of transformers' image-segmentation pipelines; "
            "`png`: pixel values are labels, 0 = none, i = the i-th word; `npz`: arrays labels, "
            "scores (class maps), names, and provenance as JSON.",
        ),
    ] = "rle"


class SegmentRequest(Picture, Words, Choice, Answered):
    """A picture and words."""


class EncodeRequest(Picture, Choice):
    """A picture that is asked about later."""


class ScoreRequest(Words, Answered):
    """Words for a picture that was encoded before."""

    encoding: Annotated[
        Name, Field(description="What `POST /v1/encode` gave.", examples=["kD0c-2yTq1"])
    ]


class SegmentForm(Words, Choice, Answered):
    """The fields of a form besides `image`."""


class EncodeForm(Choice):
    """The fields of a form besides `image`."""


class RunLengths(Strict):
    """COCO's compressed run lengths, as pycocotools reads them."""

    size: list[int]
    counts: str


class Region(Strict):
    """The pixels of one word."""

    label: Annotated[int, Field(description="i: the i-th word.")]
    name: str
    bbox: Annotated[list[int], Field(description="x, y, width, height in pixels.")]
    area: int
    segmentation: RunLengths
    score: Annotated[float, Field(description="The mean of the word's scores there.")] = 0.0


class SegmentAnswer(Strict):
    """The words that were found (`"answer": "rle"`)."""

    height: int
    width: int
    words: list[str]
    regions: list[Region]
    provenance: Annotated[dict[str, Any], Field(description="All that the result depends on.")]


class EncodeAnswer(Strict):
    """A picture that is encoded, and may be asked about."""

    encoding: str
    owner: Annotated[
        str, Field(description="To be sent as `X-Owner-Token`: nobody else can ask about it.")
    ]
    height: int
    width: int
    patches: Annotated[list[int], Field(description="Rows and columns of patches.")]
    seconds: Annotated[float, Field(description="How long it is kept at most.")]


class ErrorDetail(Strict):
    """Why there is no result."""

    status: int
    message: str
    received: str | None
    request_id: str


class ErrorAnswer(Strict):
    """The one shape of all errors."""

    error: ErrorDetail
