"""Which files of a model repository matter, and which names mean this disk. Pure: works on names alone."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath

_UNUSED = ("*.py", "*.onnx*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "*.mlmodel", "*.pt", "*.pth", "*.ckpt")
_UNUSED_FOLDERS = ("onnx", "openvino", "coreml", "tf", "flax", "original")
_CONTENT = (".safetensors", ".bin", ".json", ".txt", ".model", ".vocab", ".codes", ".spm", ".v3")

ABOUT_A_RUN = {"manifest.json", "training.json", "metrics.jsonl", "emissions.json"}
"""Files beside a trained model that describe its run, with times and paths, and do not change what it computes."""


def is_commit(revision: str) -> bool:
    """Return whether a revision is shaped like a commit, which no branch or tag moves."""
    return bool(re.fullmatch(r"[0-9a-f]{40}", revision))


def looks_local(path: str) -> bool:
    """Return whether a name is shaped like a file or folder rather than `owner/name`."""
    shaped = path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1
    return shaped or bool(re.search(r"\.(jsonl?|csv|tsv|parquet|trec|txt)$", path))


def model_files(names: list[str]) -> list[str]:
    """Return the weights, configuration, tokenizer and documentation of a model, in the given order.

    Left out: code (never run), other frameworks' weights, optimizer states, and the pickled weights in every folder
    that has safetensors.
    """
    kept = [name for name in names if _is_of_model(name)]
    safe = {PurePosixPath(name).parent for name in kept if name.endswith(".safetensors")}
    return [name for name in kept if not (is_pickle(name) and PurePosixPath(name).parent in safe)]


def identity_files(names: list[str]) -> list[str]:
    """Return those of `model_files` that decide what the model computes."""
    return [name for name in model_files(names) if name.endswith(_CONTENT) and name not in ABOUT_A_RUN]


def is_pickle(name: str) -> bool:
    """Return whether a file holds pickled weights."""
    return PurePosixPath(name).name.startswith("pytorch_model") and name.endswith((".bin", ".bin.index.json"))


def _is_of_model(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[0] in _UNUSED_FOLDERS or any(fnmatch(path.name, pattern) for pattern in _UNUSED):
        return False
    return path.suffix != ".bin" or is_pickle(name)


def literal_patterns(names: list[str]) -> list[str]:
    """Return file names as glob patterns that match only themselves."""
    return [re.sub(r"([*?[])", r"[\1]", name) for name in names]
