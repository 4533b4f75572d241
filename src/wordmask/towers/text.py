"""The text tower: names to unit embeddings through prompt templates, encoded once and cached.

N names, T templates, P unique prompts, L tokens of a prompt, E joint text-image width.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from wordmask import vocabulary
from wordmask.errors import WordmaskError
from wordmask.files import write_atomically
from wordmask.progress import steps
from wordmask.towers.weights import hash_weights, mark

CACHE_FORMAT = 1  # to be increased when the same key would hold other numbers
MEMORY_ROWS = 16_384
LEGACY_END = 2  # the wrong end token id of old configurations on the hub


class TextTower:
    """CLIP's text encoder with its tokenizer and a cache in memory and on disk.

    Args:
        text_model: transformers' CLIP text model (`CLIPModel.text_model`), used as it is. It and
            the tokenizer may be None; then `encode` raises.
        text_projection: the map from its pooled state to the joint space.
        tokenizer: the checkpoint's tokenizer.
        cache_dir: folder for embeddings, made when needed; None caches nothing on disk.
        batch_size: prompts encoded at a time.
        lacks: why there is no tokenizer, for the message.

    Weights may be changed: embeddings made before are then forgotten, see `weights.mark` for what
    is seen.
    """

    legacy_end: ClassVar[int | None] = LEGACY_END
    ends: ClassVar[bool] = True  # whether prompts have an end token

    def __init__(
        self,
        text_model: Any,
        text_projection: Any,
        tokenizer: Any,
        *,
        cache_dir: str | os.PathLike[str] | None,
        batch_size: int = 256,
        lacks: str = "",
    ) -> None:
        self.text_model = text_model
        self.text_projection = text_projection
        self.tokenizer = tokenizer
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.batch_size = batch_size
        self.lacks = lacks
        self._weights = b""  # the mark of the weights for which the next two hold
        self._fingerprint: str | None = None
        self._memory: dict[tuple[str, str], Tensor] = {}  # (templates, name) -> (E,), oldest first
        self._warned: set[str] = set()  # names that were too long
        self._warned_of_disk = False

    def encode(self, names: Sequence[str], templates: str | Path | Sequence[str]) -> Tensor:
        """Embed names: the normalised mean over templates of normalised prompt embeddings.

        Each name is put in place of the `{}` of each template; every unique prompt is encoded once.
        `templates` is what `wordmask.vocabulary.templates` takes.

        Returns (N, E) float32 unit rows on the model's device, in the order of `names`. A row does
        not depend on the other names (to 1e-6 in float32).

        Warns once for a name whose prompts are longer than the context; the prompt's end is cut.

        Raises WordmaskError: no text model or no tokenizer, no name, bad templates, a tokenizer
        that does not fit the model, embeddings that are not finite.

        Source: Radford et al. 2021, section 3.1.4 (prompt ensembling in embedding space).
        """
        templates = vocabulary.templates(templates)
        if isinstance(names, str) or not names:
            raise WordmaskError(f"names must be a list with at least one name; received {names!r}")
        self._forget_old()
        key = _digest(templates)
        known = {name: self._memory.get((key, name)) for name in names}
        if any(row is None for row in known.values()):
            known.update(self._find(sorted(known), known, templates))
        for name, row in known.items():
            assert row is not None
            self._memory.pop((key, name), None)  # so that it becomes the newest
            self._memory[key, name] = row
        while len(self._memory) > MEMORY_ROWS:
            self._memory.pop(next(iter(self._memory)))
        return torch.stack([known[name] for name in names]).to(self._device())  # type: ignore[misc]

    def fingerprint(self) -> str:
        """Return a hash of all that an embedding depends on besides the words.

        It covers the weights (names, shapes, dtypes, bytes), the modules, the configuration values
        that the weights do not determine, and the tokenizer.
        """
        self._forget_old()
        if self._fingerprint is None:
            model, projection, tokenizer = self._require()
            hasher = hashlib.blake2b(digest_size=20)
            for module in (model, projection):
                hasher.update(repr(module).encode())
                hash_weights(hasher, module)
            config = model.config
            keys = (
                *("hidden_act", "num_attention_heads", "max_position_embeddings", "eos_token_id"),
                "scale_sqrt_depth",
            )
            hasher.update(json.dumps([getattr(config, key, None) for key in keys]).encode())
            hasher.update(_tokenizer_text(tokenizer).encode())
            self._fingerprint = hasher.hexdigest()
        return self._fingerprint

    def _forget_old(self) -> None:
        """Forget fingerprint and embeddings if the weights have changed."""
        model, projection, _ = self._require()
        now = mark(model, projection)
        if now != self._weights:
            self._weights, self._fingerprint = now, None
            self._memory.clear()

    def _find(
        self, names: list[str], known: dict[str, Tensor | None], templates: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """Return the rows of `names` (sorted, unique) from disk, or encode those not in memory."""
        path = None
        if self.cache_dir is not None:
            key = _digest([CACHE_FORMAT, self.fingerprint(), templates, names])
            path = self.cache_dir / f"text-{key}.safetensors"
            if (kept := _load(path, len(names), self._width())) is not None:
                rows, cut = kept
                self._warn_of_cut(cut)
                return dict(zip(names, rows, strict=True))
        found = {name: row for name, row in known.items() if row is not None}
        missing = [name for name in names if name not in found]
        rows, cut = self._encode(missing, templates)
        self._warn_of_cut(cut)
        found.update(zip(missing, rows, strict=True))
        if path is not None:
            # A name from memory may have been cut too: the file must record it.
            cut = [name for name in names if name in self._warned]
            self._save(path, torch.stack([found[name] for name in names]), names, cut)
        return found

    @torch.no_grad()
    def _encode(self, names: list[str], templates: tuple[str, ...]) -> tuple[Tensor, list[str]]:
        """Encode names without any cache: (N, E) unit rows on the CPU, and the names cut short."""
        self._require()
        owners: dict[str, list[int]] = {}  # prompt -> the names it belongs to
        for index, name in enumerate(names):
            for template in templates:
                owners.setdefault(template.replace("{}", name), []).append(index)
        prompts = list(owners)
        tokens, is_cut = self._tokenize(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(tokens[i]))  # little padding
        sums = torch.zeros(len(names), self._width(), dtype=torch.float64)
        starts = range(0, len(order), self.batch_size)
        batches = [order[start : start + self.batch_size] for start in starts]
        for batch in steps("encoding words, prompts", batches, len(order), len):
            features = self._features([tokens[i] for i in batch])
            embeddings = F.normalize(features.float(), dim=-1).cpu().double()  # (b, E)
            rows = [row for row, i in enumerate(batch) for _ in owners[prompts[i]]]
            owner = [index for i in batch for index in owners[prompts[i]]]
            sums.index_add_(0, torch.tensor(owner), embeddings[rows])
        if not torch.isfinite(sums).all():
            bad = names[int((~torch.isfinite(sums)).any(dim=1).nonzero()[0])]
            raise WordmaskError(
                f"the text tower gives values that are not finite for the name {bad!r}; check the "
                "weights, or use float32"
            )
        cut = {index for i, prompt in enumerate(prompts) if is_cut[i] for index in owners[prompt]}
        return F.normalize(sums, dim=-1).float(), [names[index] for index in sorted(cut)]

    def _features(self, tokens: list[list[int]]) -> Tensor:
        """Return the features (b, E) of prompts given as tokens, the longest prompt last."""
        model, projection, tokenizer = self._require()
        # Attention is causal and the pooled state is that of the first end token, so end tokens
        # after it change nothing, whatever token the checkpoint pads with.
        input_ids = self._padded(tokens, len(tokens[-1]), tokenizer.eos_token_id)
        return projection(model(input_ids=input_ids).pooler_output)

    def _padded(self, tokens: list[list[int]], length: int, padding: int) -> Tensor:
        """Return the tokens as one tensor (b, length)."""
        rows = [row + [padding] * (length - len(row)) for row in tokens]
        return torch.tensor(rows, device=self._device())

    def _masked(self, tokens: list[list[int]], padding: int) -> tuple[Tensor, Tensor]:
        """Return the tokens (b, L), the longest prompt last, and 1 where they are no padding."""
        input_ids = self._padded(tokens, len(tokens[-1]), padding)
        lengths = torch.tensor([len(row) for row in tokens], device=input_ids.device)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return input_ids, (places < lengths[:, None]).long()

    def _tokenize(self, prompts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """Return start token, text, end token of each prompt, and whether its text was cut."""
        model, _, tokenizer = self._require()
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        configured = model.config.eos_token_id
        if start is None or end is None:
            raise WordmaskError("the tokenizer has no start or no end token; CLIP needs both")
        if configured not in (self.legacy_end, end):
            raise WordmaskError(
                f"the tokenizer ends a prompt with token {end}, the text model expects token "
                f"{configured}; give the tokenizer that belongs to these weights"
            )
        room = model.config.max_position_embeddings - 2
        highest = model.config.vocab_size - 1
        if configured == self.legacy_end:  # then the model pools the state of the highest token
            highest = min(highest, end)
        tokens, is_cut = [], []
        encoded = tokenizer(
            prompts, padding=False, truncation=False, return_attention_mask=False, verbose=False
        )
        for prompt, ids in zip(prompts, encoded["input_ids"], strict=True):
            text = list(ids[1:] if ids[:1] == [start] else ids)
            if text[-1:] == [end]:
                text.pop()
            if end in text:
                raise WordmaskError(f"the tokenizer finds its end token inside {prompt!r}")
            if max(start, end, *text) > highest:
                raise WordmaskError(
                    f"the tokenizer gives token {max(start, end, *text)} for {prompt!r}, which the "
                    "text model cannot use; give the tokenizer that belongs to these weights"
                )
            tokens.append([start, *text[:room], end])
            is_cut.append(len(text) > room)
        return tokens, is_cut

    def _own_tokens(self, prompts: list[str], context: int) -> tuple[list[list[int]], list[bool]]:
        """Return each prompt's tokens with the tokenizer's special tokens, and if it was cut."""
        model, _, tokenizer = self._require()
        if tokenizer.pad_token_id is None:
            raise WordmaskError("the tokenizer has no padding token; the text model needs one")
        encoded = tokenizer(
            prompts, padding=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        highest = max(max(ids, default=0) for ids in encoded)
        if highest >= model.config.vocab_size:
            raise WordmaskError(
                f"the tokenizer gives token {highest}, which the text model cannot use; give the "
                "tokenizer that belongs to these weights"
            )
        is_cut = [len(ids) > context for ids in encoded]
        kept = context - self.ends
        return [
            [*ids[:kept], *ids[-1:][: self.ends]] if len(ids) > context else list(ids)
            for ids in encoded
        ], is_cut

    def _warn_of_cut(self, names: list[str]) -> None:
        for name in names:
            if name not in self._warned:
                self._warned.add(name)
                shown = name if len(name) <= 60 else f"{name[:57]}..."
                context = self._require()[0].config.max_position_embeddings
                warnings.warn(
                    f"the name {shown!r} is too long for the text tower's context of {context} "
                    "tokens; its end was cut off",
                    stacklevel=4,
                )

    def _save(self, path: Path, rows: Tensor, names: list[str], cut: list[str]) -> None:
        metadata = {"names": json.dumps(names), "cut": json.dumps(cut)}
        content = safetensors.torch.save({"embeddings": rows}, metadata)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(content))
        except (OSError, WordmaskError) as error:
            if not self._warned_of_disk:
                self._warned_of_disk = True
                warnings.warn(f"text embeddings are not cached on disk: {error}", stacklevel=4)

    def _require(self) -> tuple[Any, Any, Any]:
        if self.text_model is None or self.text_projection is None:
            raise WordmaskError(
                "names need a text model, and this model has none; pass text features as a tensor"
            )
        if self.tokenizer is None:
            raise WordmaskError(
                f"names need a tokenizer{self.lacks and f', and {self.lacks}; fetch it'}; pass "
                "tokenizer=..., or text features as a tensor"
            )
        return self.text_model, self.text_projection, self.tokenizer

    def _device(self) -> torch.device:
        return next(self._require()[0].parameters()).device

    def _width(self) -> int:
        model, projection, _ = self._require()
        weight = next(model.parameters())
        state = torch.zeros(1, model.config.hidden_size, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            return int(projection(state).shape[-1])


class MetaClip2Text(TextTower):
    """MetaCLIP 2's text encoder: its end token is 2, as stated, and not CLIP's wrong one."""

    legacy_end: ClassVar[int | None] = None


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=20).hexdigest()


def _tokenizer_text(tokenizer: Any) -> str:
    """Return all that determines a tokenizer's ids, without the padding set by its last call."""
    if hasattr(tokenizer, "backend_tokenizer"):
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        return json.dumps({**parts, "padding": None, "truncation": None}, sort_keys=True)
    return json.dumps(tokenizer.get_vocab(), sort_keys=True)


def _load(path: Path, count: int, width: int) -> tuple[Tensor, list[str]] | None:
    """Read unit rows (count, width) and the names that were cut; None for any other content."""
    try:
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor("embeddings").clone()
            cut = [str(name) for name in json.loads(file.metadata()["cut"])]
    except Exception:  # whatever is wrong with a cached file, it is written anew
        return None
    if rows.shape != (count, width) or rows.dtype != torch.float32:
        return None
    # A disk that lost its last writes can leave zeros after a valid header.
    if not torch.allclose(rows.norm(dim=-1), torch.ones(count), atol=1e-4):
        return None
    return rows, cut
