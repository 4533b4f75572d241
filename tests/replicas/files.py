"""Weights and tokenizers as the hub's repositories hold them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [  # the first of CLIP's own, and three words
    *(("i", "n"), ("t", "h"), ("a", "n"), ("r", "e"), ("a", "r"), ("e", "r"), ("th", "e</w>")),
    *(("in", "g</w>"), ("p", "h"), ("ph", "o"), ("t", "o</w>"), ("pho", "to</w>")),
    *(("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")),
]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def saved_tensors(model: Any) -> dict[str, Tensor]:
    """The tensors of a transformers model by the names of its files, which differ from its own."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def write_weights(
    folder: Path, tensors: dict[str, Tensor], names: Sequence[str], formats: tuple[str, ...] = ()
) -> None:
    """Write the weight files `names`, those with one of the endings `formats` if there are any.

    "fp16" in a name makes half precision; an index makes two shards; what wordmask does not read
    gets a few bytes.
    """
    for name in names:
        if formats and not name.removesuffix(".index.json").endswith(formats):
            continue
        half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        content = half if "fp16" in name else tensors
        if name.endswith(".index.json"):
            keys, (stem, kind) = sorted(content), name.removesuffix(".index.json").rsplit(".", 1)
            shards = [f"{stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
            where = {key: shards[i >= len(keys) // 2] for i, key in enumerate(keys)}
            for shard in shards:
                _write(folder / shard, {k: v for k, v in content.items() if where[k] == shard})
            size = sum(v.nbytes for v in content.values())
            write_json(folder / name, {"metadata": {"total_size": size}, "weight_map": where})
        else:
            _write(folder / name, content)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path, {"format": "pt"})
    elif path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        path.write_bytes(b"not read by wordmask")


def position_ids(length: int) -> Tensor:
    """The buffer (1, length) that old checkpoints hold."""
    return torch.arange(length)[None]


def put_into_cache(cache: Path, name: str, folder: Path, **revisions: str) -> None:
    """The hub's cache layout, made by hand: branches and tags by the commit that they stand for."""
    place = cache / f"models--{name.replace('/', '--')}"
    for revision, commit in revisions.items():
        shutil.copytree(folder, place / "snapshots" / commit, dirs_exist_ok=True)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / revision).write_text(commit)


# -- tokenizers ---------------------------------------------------------------------------------


def clip_vocabulary() -> dict[str, int]:
    """CLIP's vocabulary in its order: bytes, bytes that end a word, merges, start, end."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + n) for n in range(256 - len(printed))]
    letters = [*map(chr, printed), *others]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in MERGES] + [START, END]
    return {token: index for index, token in enumerate(tokens)}


def write_clip_tokenizer(folder: Path, *, fast: bool = True, pad: str = END, **more: Any) -> None:
    """vocab.json, merges.txt and the two small files; with `fast` tokenizer.json too."""
    vocabulary = clip_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    if fast:
        CLIPTokenizer(vocab=vocabulary, merges=MERGES).backend_tokenizer.save(
            str(folder / "tokenizer.json")
        )
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kinds = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    tokens = {"bos_token": START, "eos_token": END, "unk_token": END}
    special = {key: {"content": token, **kinds} for key, token in tokens.items()}
    write_json(folder / "special_tokens_map.json", {**special, "pad_token": pad})
    typed = {key: {**token, "__type": "AddedToken"} for key, token in special.items()}
    settings = {"pad_token": pad, "add_prefix_space": False, "errors": "replace", **more}
    write_json(folder / "tokenizer_config.json", {**typed, **settings, "do_lower_case": True})


def sentencepiece_model(words: Sequence[str]) -> bytes:
    """A SentencePiece unigram model of whole words and letters.

    Pieces 0, 1, 2 are <pad>, </s> and <unk>, as in SigLIP's.
    """
    letters = ["▁", *map(chr, range(ord("a"), ord("z") + 1)), *".,'-"]
    pieces = [("<pad>", 3, 0.0), ("</s>", 3, 0.0), ("<unk>", 2, 0.0)]
    pieces += [(f"▁{word}", 1, -1.0) for word in words]
    pieces += [(letter, 1, -10.0) for letter in letters]
    return _sentencepiece(pieces, 1, {40: 2, 41: 2**64 - 1, 42: 1, 43: 0})


def sentencepiece_pairs(tokens: Sequence[str]) -> bytes:
    """A SentencePiece model of byte pairs: <pad>, <unk>, then tokens, those merged first first."""
    pieces = [("<pad>", 3, 0.0), ("<unk>", 2, 0.0)]
    pieces += [(token, 1, -float(i)) for i, token in enumerate(tokens)]
    return _sentencepiece(pieces, 2, {40: 1, 41: 2**64 - 1, 42: 2**64 - 1, 43: 0})


def _sentencepiece(
    pieces: Sequence[tuple[str, int, float]], kind: int, ids: Mapping[int, int]
) -> bytes:
    """The protocol buffer of pieces (text, type, score); ids of <unk>, <s>, </s>, <pad>."""

    def number(field: int, value: int) -> bytes:
        return _varint(field << 3) + _varint(value)

    def block(field: int, content: bytes) -> bytes:
        return _varint(field << 3 | 2) + _varint(len(content)) + content

    def piece(text: str, kind: int, score: float) -> bytes:
        value = torch.tensor([score]).numpy().tobytes()
        return block(1, block(1, text.encode()) + _varint(2 << 3 | 5) + value + number(3, kind))

    special = b"".join(number(field, value) for field, value in ids.items())
    trainer = block(2, number(3, kind) + number(4, len(pieces)) + special)
    normaliser = block(3, block(1, b"identity") + number(3, 1) + number(4, 1) + number(5, 1))
    return b"".join(piece(*one) for one in pieces) + trainer + normaliser


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
