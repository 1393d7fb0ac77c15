"""Memory is kept between tensors where it can be, and given back when asked."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config.runtime import RuntimeConfig
from pipeline.core.allocation import release_memory, reuse_memory
from pipeline.engine.machine import resolve_device


@pytest.mark.parametrize("chosen", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", None])
def test_a_gpus_segments_grow_unless_its_memory_is_configured(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "theirs")  # so that it is put back
        if name != chosen:
            del os.environ[name]
    resolve_device(RuntimeConfig())
    expected = {chosen: "theirs"} if chosen else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert {name: value for name, value in os.environ.items() if name.endswith("_ALLOC_CONF")} == expected


def test_a_gpus_segments_do_not_grow_under_wsl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(platform, "release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    resolve_device(RuntimeConfig())
    assert not [name for name in os.environ if name.endswith("_ALLOC_CONF")]


def test_memory_is_kept_where_glibc_can_be_told_to_and_nothing_happens_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            self.mallopt = lambda parameter, value: told.append((parameter, value))

    monkeypatch.setattr(ctypes, "CDLL", Library)
    reuse_memory()
    # Blocks from 32 MiB on, the most glibc takes, are still given back; so is what is free beyond half a gibibyte.
    assert dict(told) == {-3: 32 * 2**20, -1: 512 * 2**20, -2: 64 * 2**20}
    for missing in (OSError, TypeError, AttributeError):

        def refuse(name: None, error: type[Exception] = missing) -> None:
            raise error

        monkeypatch.setattr(ctypes, "CDLL", refuse)
        reuse_memory()
        release_memory()


KEEPING = """
import torch
from pipeline.core.allocation import release_memory, reuse_memory

def resident():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024

reuse_memory()
before = resident()
tensors = [torch.ones(2**18) for _ in range(300)]
del tensors
kept = resident() - before
release_memory()
print(kept, resident() - before)
"""


def test_memory_that_is_kept_is_given_back_when_asked(root: Path) -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("nothing is kept without glibc")
    command = [sys.executable, "-c", KEEPING]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=root)
    kept, left = map(int, found.stdout.split())
    assert kept > 250 and left < 50, "MiB of 300"
