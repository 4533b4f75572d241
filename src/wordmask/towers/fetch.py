"""Which files a network needs, and how a repository of the model hub becomes a local folder.

Networks are loaded from local folders only: what is in the hub's cache is used without a request,
what is missing is fetched first, and the libraries that read the files never see the network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmask.errors import WordmaskError

if TYPE_CHECKING:
    import torch

TIMEOUT = 10  # seconds until the hub must have begun to answer
HALF = "fp16"  # the variant of weights in half precision, part of their names

Group = tuple[tuple[str, ...], ...]  # alternatives, each of one or more files
TOKENIZER: Group = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
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
    """

    name: str
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    kind: str = "the model"

    @property
    def source(self) -> str:
        """`owner/name@revision`."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def cache(self) -> Path:
        """The hub's cache."""
        from huggingface_hub import constants

        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()

    def command(self, include: Iterable[str] = (), *more: str) -> str:
        """The command that downloads files by name or pattern."""
        words = ["hf", "download", self.name]
        words += ["--revision", self.revision] if self.revision else []
        words += ["--cache-dir", str(self.cache_dir)] if self.cache_dir else []
        for one in include:
            words += ["--include", f'"{one}"' if "*" in one else one]
        return " ".join([*words, *more])

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
            raise self._error(str(refusal), gaps, files, folder) from None

    # -- the cache ------------------------------------------------------------------------------

    def _snapshot(self, index: Sequence[str]) -> Path | None:
        """The folder of the revision in the cache, if an index file is there."""
        found = (self._cached(file) for file in index)
        return next((Path(path).parent for path in found if isinstance(path, str)), None)

    def _cached(self, file: str) -> Any:
        """The path of a file in the cache, None, or a mark that the repository has no such file."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(self.name, file, cache_dir=self.cache, revision=self.revision)

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
            raise _RefusalError(_contents(sizes, index))
        folder = self._get([first], sizes)
        files = check(folder) or files
        chosen = [self._choose(names, sizes, folder, half) for names in files.weights]
        self._get([form.file for form in chosen if form.file.endswith(".json")], sizes)
        groups = (*files.required, *files.expected)
        wanted = {file for group in groups for option in group for file in option}
        wanted = (wanted | set(files.extra)) & set(sizes)
        wanted |= {part for form in chosen for part in form.parts(folder)}
        self._get(sorted(wanted, key=lambda file: sizes.get(file, 0)), sizes)
        gaps = lacking(folder, replace(files, expected=()))
        if gaps:
            raise _RefusalError(f"the repository has no {', '.join(gaps)}")
        self._note_absent(folder, files.expected, sizes)
        return folder

    def _choose(
        self, names: Sequence[str], sizes: dict[str, int], folder: Path, half: bool
    ) -> Weights:
        """The form of weights to fetch: what is in the cache already, else the preferred one."""
        found = find_weights(folder, names, half)
        found = found or next((form for form in forms(names, half) if form.file in sizes), None)
        if found is None:
            raise _RefusalError(_contents(sizes, names))
        return found

    def _list(self) -> dict[str, int]:
        """The repository's files and their sizes in bytes."""
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(
                self.name, revision=self.revision, timeout=TIMEOUT, files_metadata=True
            )
        except Exception as error:
            raise _RefusalError(self._reason(error)) from None
        return {one.rfilename: one.size or 0 for one in info.siblings or ()}

    def _get(self, names: Sequence[str], sizes: dict[str, int]) -> Path:
        """Download what is not in the cache; the folder of the files."""
        from huggingface_hub import hf_hub_download

        folder = Path()
        for name in names:
            try:
                path = hf_hub_download(
                    self.name, name, revision=self.revision, cache_dir=self.cache
                )
            except Exception as error:
                raise _RefusalError(self._reason(error)) from None
            folder = Path(path).parents[name.count("/")]
        return folder

    # -- messages -------------------------------------------------------------------------------

    def _reason(self, error: BaseException) -> str:
        """What went wrong with a request, and what to do about it."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        if isinstance(error, RepositoryNotFoundError):
            return (
                f"the hub has no model {self.name!r}, or it is private; check the id, or log in "
                "with `hf auth login`"
            )
        if isinstance(error, RevisionNotFoundError):
            return (
                f"the hub's model {self.name!r} has no revision {self.revision!r}; give a branch, "
                "a tag or a commit after the @"
            )
        return f"the download failed with {type(error).__name__}"

    def _error(
        self, why: str, gaps: Sequence[str], files: Files, folder: Path | None
    ) -> WordmaskError:
        return WordmaskError(
            f"cannot load {self.source!r} as {self.kind}: {', '.join(gaps)} not in the cache, and "
            f"{why}; run `{self.command()}` with a network, or give a local folder"
        )


class _RefusalError(Exception):
    """Why files cannot be fetched."""


def _contents(sizes: Iterable[str], names: Sequence[str]) -> str:
    """What a repository has in place of a file that it lacks."""
    return f"the repository has no {' or '.join(names)}"
