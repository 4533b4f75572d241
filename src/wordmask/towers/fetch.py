"""Which files a network needs, and how a repository of the model hub becomes a local folder.

Networks are loaded from local folders only: what is in the hub's cache is used without a request,
what is missing is fetched first, and the libraries that read the files never see the network.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmask.errors import WordmaskError
from wordmask.files import size_text
from wordmask.towers.transfer import Transfer

if TYPE_CHECKING:
    import torch

TIMEOUT = 10  # seconds until the hub must have begun to answer
PIECE = 2**20  # bytes written at once; the library's own 10 MB is what a cut or slow line loses
HALF = "fp16"  # the variant of weights in half precision, part of their names

Group = tuple[tuple[str, ...], ...]  # alternatives, each of one or more files
TOKENIZER: Group = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
)
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")
TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
DIFFUSERS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True)
class Files:
    """The files of a network, by their paths in its folder.

    Attributes:
        weights: of each of its networks, the names that they may have, the preferred first; names
            of shards and of half precision follow from them.
        required: one alternative of each group must be there.
        expected: as `required`, but a repository or a local folder without them is complete.
        extra: fetched with the others if the repository has them.
    """

    weights: tuple[tuple[str, ...], ...] = (TRANSFORMERS,)
    required: tuple[Group, ...] = ()
    expected: tuple[Group, ...] = ()
    extra: tuple[str, ...] = PREPROCESSOR


@dataclass(frozen=True)
class Weights:
    """One form of a network's weights: the file, or the index of its shards, and its variant."""

    file: str
    variant: str | None
    safetensors: bool

    def parts(self, folder: Path) -> list[str]:
        """All files of it; those that an index names only if `folder` has the index."""
        if not self.file.endswith(".json"):
            return [self.file]
        try:
            shards = set(json.loads((folder / self.file).read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return [self.file]
        return [self.file, *sorted(str(Path(self.file).parent / str(s)) for s in shards)]


def forms(names: Sequence[str], half: bool = False) -> Iterator[Weights]:
    """The forms of weights, the preferred first.

    Args:
        names: see `Files.weights`.
        half: half precision is preferred; else it comes after all others.
    """
    if half:
        order = [(name, variant) for name in names for variant in (HALF, None)]
    else:
        order = [(name, variant) for variant in (None, HALF) for name in names]
    for name, variant in order:
        stem, _, ending = name.rpartition(".")
        mark = f".{variant}" if variant else ""
        for file in (f"{stem}{mark}.{ending}", f"{name}.index{mark}.json"):
            yield Weights(file, variant, ending == "safetensors")


def find_weights(folder: Path, names: Sequence[str], half: bool = False) -> Weights | None:
    """The first form of weights that is complete in a folder."""
    return next((form for form in forms(names, half) if _is_complete(folder, form)), None)


def weight_settings(folder: Path, names: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of `from_pretrained` for the weights of a complete folder.

    Args:
        folder: of the model.
        names: see `Files.weights`.
        dtype: that they are read for; types of two bytes take half precision if it is there.
    """
    found = find_weights(folder, names, dtype.itemsize == 2)
    return {"variant": found.variant, "use_safetensors": found.safetensors} if found else {}


def inside(part: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of files in a folder `part` of a repository."""
    return tuple(f"{part}/{name}" for name in names)


def lacking(folder: Path, files: Files) -> list[str]:
    """The required and expected files that a folder lacks, each with a name that it may have."""
    gaps = [
        " or ".join(" with ".join(option) for option in group[:2])
        for group in files.required + files.expected
        if not any(all((folder / file).is_file() for file in option) for option in group)
    ]
    for names in files.weights:
        if find_weights(folder, names) is None:
            started = (form.parts(folder) for form in forms(names))
            shards = next((parts for parts in started if len(parts) > 1), [])
            gaps += [s for s in shards if not (folder / s).is_file()] or [" or ".join(names)]
    return gaps


def _is_complete(folder: Path, form: Weights) -> bool:
    parts = form.parts(folder)
    return all((folder / part).is_file() for part in parts) and (
        len(parts) > 1 or not form.file.endswith(".json")
    )


@dataclass(frozen=True)
class Repository:
    """A repository of the model hub, and its place in the cache.

    Attributes:
        name: `owner/name`.
        revision: a branch, tag or commit; None is the main branch.
        cache_dir: of the hub; None is its own.
        kind: what it is wanted as, in messages.
        progress: whether downloads are shown on stderr.
    """

    name: str
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    kind: str = "the model"
    progress: bool = True

    @property
    def source(self) -> str:
        """`owner/name@revision`."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def cache(self) -> Path:
        """The hub's cache."""
        from huggingface_hub import constants

        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()

    def begun(self) -> bool:
        """Whether the cache has something of it."""
        return (self.cache / f"models--{self.name.replace('/', '--')}").is_dir()

    def command(self, include: Iterable[str] = (), *more: str) -> str:
        """The command that downloads files by name or pattern."""
        words = ["hf", "download", self.name]
        words += ["--revision", self.revision] if self.revision else []
        words += ["--cache-dir", str(self.cache_dir)] if self.cache_dir else []
        for one in include:
            words += ["--include", one]
        return shlex.join([*words, *more])

    def fetch(
        self,
        files: Files,
        index: Sequence[str],
        check: Callable[[Path], Files | None] = lambda folder: None,
        *,
        half: bool = False,
        offline: bool = False,
    ) -> Path:
        """The local folder of the repository, with all files that are needed.

        Nothing is asked of the hub if they are in the cache.

        Args:
            files: that the network needs.
            index: names of the file that is read first; the first one that is there is taken.
            check: called with the folder once it has an index file; refuses the network, or returns
                its files where they are others.
            half: weights in half precision are preferred if none are in the cache.
            offline: never use the network.

        Raises:
            WordmaskError: files that are neither in the cache nor can be downloaded.
        """
        from huggingface_hub import constants

        folder = self._snapshot(index)
        files = (folder and check(folder)) or files
        expected = tuple(group for group in files.expected if not self._is_absent(group))
        gaps = [] if folder else [" or ".join(index)]
        gaps += lacking(folder or Path(os.devnull), replace(files, expected=expected))
        if folder and not gaps:
            return folder
        try:
            if offline or constants.HF_HUB_OFFLINE:
                raise _RefusalError("downloads are off" if offline else "HF_HUB_OFFLINE is set")
            return self._download(files, index, check, half)
        except _RefusalError as refusal:
            raise self._error(refusal, gaps, files, folder) from None

    # -- the cache ------------------------------------------------------------------------------

    def _snapshot(self, index: Sequence[str]) -> Path | None:
        """The folder of the revision in the cache, if an index file is there."""
        return next((Path(self._cached(f)).parent for f in index if self._is_cached(f)), None)

    def _cached(self, file: str) -> Any:
        """The path of a file in the cache, None, or a mark that the repository has no such file."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(self.name, file, cache_dir=self.cache, revision=self.revision)

    def _is_cached(self, file: str) -> bool:
        return isinstance(self._cached(file), str)

    def _is_absent(self, group: Group) -> bool:
        """Whether the cache knows that the repository has no alternative of a group."""
        from huggingface_hub import _CACHED_NO_EXIST

        return all(any(self._cached(f) is _CACHED_NO_EXIST for f in option) for option in group)

    def _note_absent(self, folder: Path, groups: Iterable[Group], sizes: Iterable[str]) -> None:
        """Remember, as the hub's library does, which files the repository does not have."""
        for name in {f for group in groups for option in group for f in option} - set(sizes):
            mark = folder.parents[1] / ".no_exist" / folder.name / name
            try:
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
            except OSError:  # a cache that cannot be written to
                return

    # -- the network ----------------------------------------------------------------------------

    def _download(
        self,
        files: Files,
        index: Sequence[str],
        check: Callable[[Path], Files | None],
        half: bool,
    ) -> Path:
        sizes = self._list()
        first = next((file for file in index if file in sizes), None)
        if first is None:
            raise _RefusalError(_contents(sizes, index), final=True)
        folder = self._get(first)
        files = check(folder) or files
        chosen = [self._choose(names, sizes, folder, half) for names in files.weights]
        for form in chosen:
            if form.file.endswith(".json"):
                self._get(form.file)
        groups = (*files.required, *files.expected)
        wanted = {file for group in groups for option in group for file in option}
        wanted = (wanted | set(files.extra)) & set(sizes)
        wanted |= {part for form in chosen for part in form.parts(folder)}
        missing = {f: sizes.get(f, 0) for f in wanted if not (folder / f).is_file()}
        if missing:
            self._get_all(dict(sorted(missing.items(), key=lambda item: item[1])))
        gaps = lacking(folder, replace(files, expected=()))
        if gaps:
            raise _RefusalError(f"the repository has no {', '.join(gaps)}", final=True)
        self._note_absent(folder, files.expected, sizes)
        return folder

    def _choose(
        self, names: Sequence[str], sizes: dict[str, int], folder: Path, half: bool
    ) -> Weights:
        """The form of weights to fetch: what is in the cache already, else the preferred one."""
        found = find_weights(folder, names, half)
        found = found or next((form for form in forms(names, half) if form.file in sizes), None)
        if found is None:
            raise _RefusalError(_contents(sizes, names), final=True)
        return found

    def _list(self) -> dict[str, int]:
        """The repository's files and their sizes in bytes."""
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(
                self.name, revision=self.revision, timeout=TIMEOUT, files_metadata=True
            )
        except Exception as error:
            raise self._refusal(error) from None
        return {one.rfilename: one.size or 0 for one in info.siblings or ()}

    def _get_all(self, sizes: dict[str, int]) -> None:
        """Download files, given with their sizes, in this order."""
        from huggingface_hub import constants

        total = sum(sizes.values())
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.cache).free
            if free < total:
                raise OSError(errno.ENOSPC, "too little room")
        except OSError as error:
            raise self._refusal(error, sizes) from None
        files = f"{len(sizes)} files" if len(sizes) > 1 else next(iter(sizes))
        title = (
            f"fetching {self.source} ({files}, {size_text(total)}) from {constants.ENDPOINT}; "
            f"kept in {self.cache}"
        )
        usual = constants.DOWNLOAD_CHUNK_SIZE
        constants.DOWNLOAD_CHUNK_SIZE = min(PIECE, usual)
        try:
            with Transfer(title, sizes, self.progress) as transfer:
                for name in sizes:
                    self._get(name, transfer.file(name))
                    transfer.end_file()
        except _RefusalError as refusal:
            refusal.missing = [name for name in sizes if not self._is_cached(name)]
            raise
        finally:
            constants.DOWNLOAD_CHUNK_SIZE = usual

    def _get(self, name: str, progress: type | None = None) -> Path:
        """Download a file, if the cache does not have it; the folder of the repository."""
        from huggingface_hub import hf_hub_download

        progress = progress or Transfer("", {name: 0}, shown=False).file(name)
        try:
            path = hf_hub_download(
                self.name,
                name,
                revision=self.revision,
                cache_dir=self.cache,
                tqdm_class=progress,
            )
        except Exception as error:
            raise self._refusal(error) from None
        return Path(path).parents[name.count("/")]

    # -- messages -------------------------------------------------------------------------------

    def _refusal(
        self, error: BaseException, sizes: Mapping[str, int] | None = None
    ) -> _RefusalError:
        """What went wrong with a request, and what to do about it."""
        from huggingface_hub import constants, errors

        hub = constants.ENDPOINT
        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
            error = error.__cause__
        kinds = {kind.__name__ for kind in type(error).__mro__}  # httpx's, whatever its version
        status = getattr(getattr(error, "response", None), "status_code", 0)
        number = getattr(error, "errno", None)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        final = False
        if isinstance(error, errors.GatedRepoError):
            why = (
                f"it is gated: ask for access on {hub}/{self.name}, then log in with "
                "`hf auth login` or set HF_TOKEN"
            )
        elif isinstance(error, errors.RepositoryNotFoundError):
            final = True
            why = (
                f"{hub} has no model {self.name!r}, or it is private; check the id, or log in "
                "with `hf auth login`"
            )
        elif isinstance(error, errors.RevisionNotFoundError):
            final = True
            why = (
                f"{self.name!r} has no revision {self.revision!r}; give a branch, a tag or a "
                "commit after the @"
            )
        elif isinstance(error, errors.FileMetadataError):
            why = (
                f"the answer of {hub} lacks the hub's headers (ETag, X-Repo-Commit), as behind "
                "some proxies; let them pass, or set HF_ENDPOINT to a mirror that sends them"
            )
        elif status in (401, 403):
            why = f"{hub} refused access ({status}); log in with `hf auth login`, or set HF_TOKEN"
        elif status:
            why = f"{hub} answered with error {status}; try again later"
        elif number in (errno.ENOSPC, errno.EDQUOT):
            needed = f", {size_text(sum(sizes.values()))} are needed" if sizes else ""
            why = f"the disk of {self.cache} is full{needed}; make room, or set HF_HOME elsewhere"
        elif number in (errno.EACCES, errno.EROFS, errno.EPERM):
            why = f"{self.cache} cannot be written to; set HF_HOME to a folder that can"
        elif "ProxyError" in kinds:
            why = f"the proxy in between refused the connection to {hub} ({first})"
        elif "TimeoutException" in kinds and "ConnectTimeout" not in kinds:
            why = f"{hub} did not answer in time"
        elif kinds & {"ConnectError", "ConnectTimeout", "ConnectionError"}:
            why = f"{hub} cannot be reached ({first})"
        elif kinds & {"RemoteProtocolError", "ReadError"} or "Consistency check" in first:
            why = f"the connection to {hub} was cut; try again"
        elif isinstance(error, ValueError):
            why = f"{hub} answered with something that is no hub's answer; a log-in page?"
        else:
            why = f"{type(error).__name__}: {first}"
        return _RefusalError(why, final)

    def _error(
        self, refusal: _RefusalError, gaps: Sequence[str], files: Files, folder: Path | None
    ) -> WordmaskError:
        from huggingface_hub import _CACHED_NO_EXIST

        what = f"cannot load {self.source!r} as {self.kind}: {refusal}"
        if refusal.final:
            return WordmaskError(what)
        choices = [gap.split(" or ") for gap in refusal.missing or gaps]
        choices = [
            [c for c in choice if self._cached(c) is not _CACHED_NO_EXIST] or choice
            for choice in choices
        ]
        if folder or refusal.missing:
            names = [name for choice in choices for text in choice for name in text.split(" with ")]
        else:
            several = len(files.weights) > 1  # pipelines, which have safetensors on the hub
            names = ["*.json", "*.txt"] + (["*.model"] if files.expected else [])
            names += [name for part in files.weights for name in part[: 1 if several else None]]
        lack = f"{', '.join(' or '.join(choice) for choice in choices)} not in the cache"
        if not self.begun():
            lack = "nothing of it is in the cache"
        return WordmaskError(
            f"{what}; {lack}: `{self.command(names)}` fetches it where there is a network, or give "
            "a local folder"
        )


class _RefusalError(Exception):
    """Why files cannot be fetched; `final` if no download can help, `missing` are their names."""

    def __init__(self, why: str, final: bool = False):
        super().__init__(why)
        self.final = final
        self.missing: list[str] = []


def _contents(sizes: Iterable[str], names: Sequence[str]) -> str:
    """What a repository has in place of a file that it lacks."""
    others = ("open_clip", ".safetensors", ".bin", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx")
    found = sorted(name for name in sizes if any(mark in name for mark in others))
    why = f"the repository has no {' or '.join(names)}"
    for name in found:
        if "open_clip" in name:
            return f"{why}, only files for open_clip ({name}); give a copy in transformers format"
    return why + (f" ({', '.join(found[:3])} cannot be read instead)" if found else "")
