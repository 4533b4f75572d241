"""What answers requests with networks: in the service's own process, or in each worker."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wordmask.errors import WordmaskError, is_out_of_memory
from wordmask.images import target_size
from wordmask.onnx.runtime import OnnxSegmenter, is_exported, read_about
from wordmask.options import is_installed
from wordmask.segmentation import Segmentation
from wordmask.serve.limits import Limits, Problem
from wordmask.serve.store import Store
from wordmask.towers.built_in import own_networks, own_options
from wordmask.vocabulary import TEMPLATE_LISTS, Background, Vocabulary

if TYPE_CHECKING:
    from wordmask.encoding import Encoding
    from wordmask.objects import Found
    from wordmask.segmenter import Prepared, Segmenter
    from wordmask.text_queries import TextQueries

Value = TypeVar("Value")

log = logging.getLogger("wordmask.serve")

MOST_SEGMENTERS, MOST_TEXTS = (
    32,
    32,
)  # methods with options, and lists of words, that are kept ready
WATCHER = "ends late batches"
PLAIN = re.compile(r"[a-z][a-z0-9_]*(:[\w.-]+)?")  # a name, and no file


@dataclass(frozen=True)
class How:
    """The network, method and refiners of a request; what is None is as the service was started.

    Attributes:
        model: one of those that the service was given.
        method, variant: by name.
        refine: refiners in order, each "name" or "name:variant".
        options: (name, value) pairs; of a refiner as "refiner.option".
    """

    model: str | None = None
    method: str | None = None
    variant: str | None = None
    refine: tuple[str, ...] | None = None
    options: tuple[tuple[str, Any], ...] = ()


AS_STARTED = How()


@dataclass(frozen=True, eq=False)
class Ask:
    """One request as it goes to the networks.

    Attributes:
        how: ignored with a handle, whose picture was encoded in one way.
        image: the picture, uint8 (H, W, 3); None with the handle of an encoding.
        words, background: None to encode alone, which keeps the encoding under `handle`.
        handle, owner: of an encoding.
        deadline: when nobody waits for the answer any longer, as of `time.time()`.
        objects: whether the answer is `Objects`.
    """

    how: How = AS_STARTED
    image: np.ndarray | None = None
    words: Vocabulary | None = None
    background: Background | None = None
    handle: str = ""
    owner: str = ""
    deadline: float = float("inf")
    objects: bool = False


@dataclass(frozen=True)
class Objects:
    """A result, and the connected parts of each word with a confidence."""

    result: Segmentation
    found: list[Found]


@dataclass(frozen=True)
class Encoded:
    """An encoding that is kept: its size in pixels and in patches, and for how many seconds."""

    handle: str
    height: int
    width: int
    patches: tuple[int, int]
    seconds: float


Answer = Segmentation | Objects | Encoded | Problem


@dataclass(frozen=True)
class Recipe:
    """All that makes an engine, so that workers can make theirs; plain values.

    Attributes:
        model: the CLIP, and `models` the others that requests may name. Folders of `wordmask
            export`, all or none of them, have a method of their own: method, variant, refine,
            networks, device and dtype are not used, and `options` are of preprocessing.
        method, variant, options, refine: of requests that name none; refiners as (name, options).
        networks: sources of auxiliary models by kind: requests may use these kinds and no others.
        store: the folder of encodings, with `kept_bytes`, `kept` and `kept_seconds` as in `Store`.
        guarded: end the process when a batch takes longer than twice `limits.seconds`.
    """

    model: str
    models: tuple[str, ...] = ()
    method: str = "cliper"
    variant: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    refine: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    offline: bool = False
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    store: str = ""
    kept_bytes: int = 2**30
    kept: int = 1000
    kept_seconds: float = 600.0
    guarded: bool = False

    def make_store(self) -> Store:
        """The encodings that are kept."""
        return Store(self.store, self.kept_bytes, self.kept, self.kept_seconds)

    def load(self, store: Store | None = None) -> Engine:
        """The engine, with its networks loaded and the words of the background encoded.

        store: in place of the recipe's own.

        Raises:
            WordmaskError: a network or method that cannot be used.
        """
        made = ExportedEngine if is_exported(self.model) else Engine
        return made(self, store or self.make_store())


class Engine:
    """Answers requests, several at a time; one that fails leaves the others alone."""

    def __init__(self, recipe: Recipe, store: Store):
        self.recipe, self.store = recipe, store
        self._models: dict[str, Any] = {}
        self._segmenters: OrderedDict[How, Segmenter] = OrderedDict()
        self._texts: OrderedDict[Any, TextQueries] = OrderedDict()
        for model in (recipe.model, *recipe.models):
            self._models[model] = self._load(model)
        grey = np.full((64, 64, 3), 128, np.uint8)  # loads what the method and refiners need
        (answer,) = self.run([Ask(image=grey, words=Vocabulary(["a thing"]))])
        if isinstance(answer, Problem):
            raise WordmaskError(answer.message)

    def _load(self, model: str) -> Any:
        from wordmask.segmenter import Segmenter

        recipe = self.recipe
        segmenter = Segmenter.from_pretrained(
            model,
            recipe.method,
            recipe.variant,
            recipe.options,
            recipe.device,
            recipe.dtype,
            local_files_only=recipe.offline,
            networks=dict(recipe.networks),
        )
        segmenter.note, segmenter.max_pixels = "", recipe.limits.pixels
        if segmenter.text is not None:
            segmenter.encode_text(["anything"], "auto")  # from the cache on disk, or into it,
            segmenter.text.cache_dir = None  # which the words of requests would fill without end
        return segmenter

    def run(self, asks: Sequence[Ask]) -> list[Answer]:
        """The answers of requests in order, each a result or the problem that it alone had.

        Pictures of one method are encoded together; each is scored by words of its own.
        """
        if self.recipe.guarded:
            faulthandler.dump_traceback_later(2 * self.recipe.limits.seconds, exit=True)
        try:
            with _ended_at(max(ask.deadline for ask in asks)):
                return self._run(asks)
        except _Late as late:  # between requests, of which each is past its time
            return [problem_of(late)] * len(asks)
        finally:
            if self.recipe.guarded:
                faulthandler.cancel_dump_traceback_later()

    def _run(self, asks: Sequence[Ask]) -> list[Answer]:
        begun = [guarded(lambda ask=ask: self._begin(ask)) for ask in asks]  # type: ignore[misc]
        groups: dict[int, list[int]] = {}
        for i, one in enumerate(begun):
            if not isinstance(one, Problem) and one.prepared is not None:
                groups.setdefault(id(one.segmenter), []).append(i)
        for indices in groups.values():
            self._encode([begun[i] for i in indices])  # type: ignore[misc]
        return [
            one if isinstance(one, Problem) else guarded(lambda one=one: self._finish(one))  # type: ignore[misc]
            for one in begun
        ]

    def _begin(self, ask: Ask) -> _Begun:
        """What comes before the network: settings, words, and the picture or its encoding."""
        _check_time(ask)
        if ask.image is None:
            how, encoding = self.store.get(ask.handle, ask.owner)
            segmenter, prepared = self.segmenter(how), None
        else:
            how, encoding = ask.how, None
            segmenter = self.segmenter(how)
            self._check_size(segmenter, *ask.image.shape[:2])
            prepared = segmenter.prepare(ask.image)
        texts = None
        if ask.words is not None:
            background = ask.background
            key = how, ask.words, background
            words = ask.words
            texts = _kept(
                self._texts, key, MOST_TEXTS, lambda: segmenter.encode_text(words, background)
            )
        return _Begun(ask, how, segmenter, texts, prepared, encoding)

    def _encode(self, group: list[_Begun]) -> None:
        """Encode pictures of one segmenter together, or one by one if that fails."""
        segmenter = group[0].segmenter
        found: list[Any]
        try:
            found = list(segmenter.encode_each([one.prepared for one in group]))
        except (Exception, _Late) as error:
            if len(group) == 1 or isinstance(error, _Late):
                found = [problem_of(error)] * len(group)
            else:
                found = [
                    guarded(lambda one=one: segmenter.encode_each([one.prepared])[0])  # type: ignore[misc]
                    for one in group
                ]
        for one, encoding in zip(group, found, strict=True):
            one.encoding = encoding

    def _finish(self, one: _Begun) -> Answer:
        ask, encoding = one.ask, one.encoding
        if isinstance(encoding, Problem):
            return encoding
        _check_time(ask)
        assert encoding is not None
        if one.texts is None:
            return self._keep(ask, one)
        if ask.objects:
            return self._objects(one)
        result: Segmentation = one.segmenter(encoding, one.texts)
        result.image = None  # whoever asked has it
        return result

    def _keep(self, ask: Ask, one: _Begun) -> Encoded:
        encoding: Any = one.encoding
        self.store.put(ask.handle, ask.owner, (one.how, encoding))
        (height, width), seconds = encoding.sizes[0], self.store.seconds
        patches = encoding.patches(one.segmenter.tower.patch)
        return Encoded(ask.handle, height, width, patches, seconds)

    def _objects(self, one: _Begun) -> Objects:
        from wordmask.objects import parts_of

        encoding: Any = one.encoding
        result, found = parts_of(one.segmenter.score(encoding, one.texts))
        result.image = None
        return Objects(result, found)

    # -- settings -------------------------------------------------------------------------------

    def segmenter(self, how: How) -> Any:
        """The segmenter of a request.

        Raises:
            Problem, WordmaskError: settings that do not fit, or that requests may not choose.
        """
        return _kept(self._segmenters, how, MOST_SEGMENTERS, lambda: self._segmenter(how))

    def _segmenter(self, how: How) -> Segmenter:
        from wordmask.methods import METHODS, create_method
        from wordmask.refiners import read_refiners

        recipe, model = self.recipe, how.model or self.recipe.model
        if model not in self._models:
            raise self._no_model(model)
        for name in (how.method or "clip", *(how.refine or ())):
            if not PLAIN.fullmatch(name):
                raise Problem(422, "methods and refiners are chosen by name", name)
        values = dict(how.options)
        if values.get("templates", TEMPLATE_LISTS[0]) not in TEMPLATE_LISTS:
            listed = ", ".join(TEMPLATE_LISTS)
            raise Problem(422, f"templates are one of {listed}", values["templates"])
        own = {name: value for name, value in values.items() if "." not in name}
        chosen, _, named = (how.method or recipe.method).partition(":")
        variant = how.variant or named or None
        if how.method is None and how.variant is None:
            own, variant = {**recipe.options, **own}, recipe.variant
        method, variant = create_method(METHODS.resolve(chosen), variant, own_options(model, own))
        if how.refine is None:
            refined = [(name, dict(options)) for name, options in recipe.refine]
        else:
            refined = [(name, {}) for name in how.refine]
        names = [name.partition(":")[0] for name, _ in refined]
        for name, value in values.items():
            owner, dot, option = name.partition(".")
            if dot and owner not in names:
                raise Problem(422, f"{owner!r} is not among the refiners", name)
            if dot:
                refined[names.index(owner)][1][option] = value
        refiners = read_refiners(refined)
        self._check_networks(model, [method, *refiners])
        segmenter = self._models[model].with_method(
            type(method), variant, method.options(), refiners
        )
        segmenter.note = ""
        return segmenter

    def _no_model(self, model: str) -> Problem:
        known = ", ".join(self._models)
        return Problem(422, f"this service has no such model; it has: {known}", model)

    def _check_networks(self, model: str, parts: Sequence[Any]) -> None:
        """Refuse what would load a network that the service was not started with."""
        given = {*self.recipe.networks, *own_networks(model)}
        for part in parts:
            for kind in set(part.networks) - given:
                raise Problem(422, f"{part.name} needs a {kind}, which this service has not", kind)
            if not is_installed(type(part)):
                raise Problem(422, f"{part.name} is not installed in this service", part.name)

    def _check_size(self, segmenter: Segmenter, height: int, width: int) -> None:
        """Refuse a picture that the method would make too large for the network."""
        method: Any = segmenter.method
        height, width = method.resized(height, width, segmenter.tower)
        window, stride = getattr(method, "window", 0), getattr(method, "stride", 0)
        self._check_seen(height, width, window, stride)

    def _check_seen(self, height: int, width: int, window: int, stride: int) -> None:
        limits, seen = self.recipe.limits, height * width
        if window:
            across = [max(side - window, 0) // max(stride, 1) + 2 for side in (height, width)]
            seen = min(seen, window * window)
            if across[0] * across[1] * seen > limits.seen * limits.passes:
                raise Problem(
                    422, "too many windows; give a larger stride", f"{across[0]} x {across[1]}"
                )
        if seen > limits.seen:
            raise Problem(
                422,
                f"the method would see more than {limits.seen:,} pixels; give a smaller short_side",
                f"{width} x {height}",
            )


class ExportedEngine(Engine):
    """`Engine` for folders that `wordmask export` wrote, in ONNX Runtime: it imports no torch.

    Words, background and, of several, the model are free; the rest is as it was exported.
    """

    def _load(self, model: str) -> OnnxSegmenter:
        made = OnnxSegmenter.from_folder(model, options=self.recipe.options)
        made.max_pixels = self.recipe.limits.pixels
        return made

    def segmenter(self, how: How) -> OnnxSegmenter:
        """See `Engine.segmenter`."""
        model = how.model or self.recipe.model
        if model not in self._models:
            raise self._no_model(model)
        found: OnnxSegmenter = self._models[model]
        asked = replace(how, model=None)
        about = found.about
        same = ((None, about["method"]), (None, about["variant"]), (None, ()))
        given = asked.method, asked.variant, asked.refine
        if asked.options or not all(one in two for one, two in zip(given, same, strict=True)):
            named = {k: v for k, v in vars(asked).items() if v != getattr(AS_STARTED, k)}
            raise Problem(
                422,
                f"an exported network has its method, {about['method']}:{about['variant']}, with "
                "its options and no refiners; leave them out",
                ", ".join(f"{name}: {value!r}" for name, value in named.items()),
            )
        return found

    def _check_size(self, segmenter: Any, height: int, width: int) -> None:
        options = segmenter.options
        size = target_size(height, width, **segmenter.sizes())
        self._check_seen(*size, options["window"], options["stride"])

    def _encode(self, group: Sequence[Any]) -> None:
        for one in group:
            one.encoding = guarded(lambda one=one: one.segmenter.encode(one.prepared))  # type: ignore[misc]

    def _keep(self, ask: Ask, one: Any) -> Encoded:
        self.store.put(ask.handle, ask.owner, (one.how, replace(one.encoding, image=None)))
        height, width = one.encoding.size
        patch = one.segmenter.about["patch"]
        rows, columns = (max(side // patch, 1) for side in one.encoding.pixel_size)
        return Encoded(ask.handle, height, width, (rows, columns), self.store.seconds)

    def _objects(self, one: Any) -> Objects:
        from wordmask.objects import find

        result = one.segmenter(one.encoding, one.texts)
        result.image = None
        sure = one.segmenter.confidence(one.encoding, one.texts, result.labels)
        return Objects(result, find(result, sure))


def describe_exported(models: Sequence[str]) -> list[dict[str, Any]]:
    """What `GET /v1/methods` lists: the method of each exported folder, with no option to set."""
    return [
        {
            "name": about["method"],
            "model": model,
            "variants": {about["variant"]: about["options"]},
            "options": [],
        }
        for model, about in zip(models, map(read_about, models), strict=True)
    ]


@dataclass(eq=False)
class _Begun:
    """A request on its way through `Engine.run`."""

    ask: Ask
    how: How
    segmenter: Any
    texts: TextQueries | None
    prepared: Prepared | None
    encoding: Encoding | Problem | None


def _check_time(ask: Ask) -> None:
    if time.time() > ask.deadline:
        raise Problem(504, "the request waited too long; try again later")


class _Late(BaseException):
    """A batch is past its time."""


@contextmanager
def _ended_at(deadline: float) -> Iterator[None]:
    """Raise `_Late` in this thread each second from a time on, so that no request holds it up.

    Not in the first second: what is late from the start is refused by itself.
    """
    thread, done = ctypes.c_ulong(threading.get_ident()), threading.Event()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        left = max(deadline - time.time(), 1)
        while not done.wait(min(left, threading.TIMEOUT_MAX)):
            throw(thread, ctypes.py_object(_Late))
            left = 1

    watcher = threading.Thread(target=watch, name=WATCHER, daemon=True)
    try:
        watcher.start()
        yield
    finally:
        while True:
            try:  # it may be raised here as well, and nothing may be thrown later
                done.set()
                watcher.join()
                throw(thread, None)  # what was thrown and not raised yet
                break
            except _Late:
                pass


def guarded(make: Callable[[], Value]) -> Value | Problem:
    """What a function returns, or its error as a problem."""
    try:
        return make()
    except (Exception, _Late) as error:
        return problem_of(error)


def problem_of(error: BaseException) -> Problem:
    """An error as what the caller gets to know of it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, _Late):
        return Problem(504, "the request took too long; ask for fewer steps or a smaller size")
    if isinstance(error, WordmaskError):
        return Problem(422, str(error))
    if is_out_of_memory(error):
        return Problem(503, "there is not enough memory; try a smaller picture or short_side")
    log.error("a request failed", exc_info=error)
    return Problem(500, "the request failed for a reason that is in the service's log")


def _kept(cache: OrderedDict[Any, Value], key: Any, most: int, make: Callable[[], Value]) -> Value:
    if key not in cache:
        cache[key] = make()
        while len(cache) > most:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
