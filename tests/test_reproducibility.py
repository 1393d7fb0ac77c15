"""Seeds, generators, and what decides precision and scope on a machine."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.learning import Precision
from pipeline.config.machine import Attention, Device, RuntimeConfig
from pipeline.core import reproducibility
from pipeline.core.errors import ResourceError
from pipeline.core.reproducibility import (
    bf16_unit,
    differences,
    micro_batch_tokens,
    release_memory,
    repeatable,
    resolve_attention,
    resolve_device,
    resolve_precision,
    reuse_memory,
    rng_state,
    scope,
    seed_everything,
    set_rng_state,
)

CPU = torch.device("cpu")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_one_seed_decides_every_generator() -> None:
    seed_everything(12)
    first = draws()
    seed_everything(12)
    assert draws() == first
    seed_everything(13)
    assert not set(draws()) & set(first)
    assert torch.are_deterministic_algorithms_enabled()


def test_what_has_no_repeatable_kernel_is_refused_only_within(recwarn: pytest.WarningsRecorder) -> None:
    def put() -> torch.Tensor:
        return torch.zeros(2).put_(torch.arange(2), torch.ones(2))

    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"), repeatable(True):
        put()
    put()
    with repeatable(False):
        put()
    put()
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


def test_generators_go_on_after_a_trip_through_a_file() -> None:
    seed_everything(3)
    torch.rand(7)
    file = io.BytesIO()
    torch.save(rng_state(), file)
    expected = torch.nn.functional.dropout(torch.ones(50), 0.5)
    file.seek(0)
    set_rng_state(torch.load(file, weights_only=True))
    assert torch.equal(torch.nn.functional.dropout(torch.ones(50), 0.5), expected)


@pytest.mark.parametrize(
    ("tiles", "dot_products", "allowed", "unit"),
    [
        (True, True, None, "AMX"),
        (True, True, "ALL", "AMX"),
        (True, True, "default", "AMX"),
        (True, True, "AVX512_CORE_AMX", "AMX"),
        (True, False, "avx512_core_amx_fp16", "AMX"),
        (True, True, "AVX512_CORE_BF16", "AVX512_BF16"),
        (True, False, "AVX512_CORE_BF16", None),
        (True, True, "AVX10_1_512", "AVX512_BF16"),
        (True, True, "AVX512_CORE_FP16", "AVX512_BF16"),
        (True, True, "AVX10_2", "AVX512_BF16"),
        (True, True, "AVX10_1_512_AMX", "AMX"),
        (True, True, "", "AMX"),
        (True, True, "no such set", "AMX"),
        (True, True, "AVX2_VNNI_2", None),
        (True, True, "AVX512_CORE", None),
        (True, True, "AVX512_CORE_VNNI", None),
        (True, True, "AVX2", None),
        (False, True, None, "AVX512_BF16"),
        (False, True, "AVX512_CORE_AMX", "AVX512_BF16"),
        (False, True, "AVX512_CORE", None),
        (False, False, None, None),
        (False, False, "AVX512_CORE_AMX", None),
    ],
)
def test_auto_is_bf16_only_where_a_unit_for_it_is_there_and_allowed(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, dot_products: bool, allowed: str | None, unit: str | None
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dot_products)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    if allowed is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert bf16_unit() == unit
    resolved, reason = resolve_precision(Precision.auto, CPU)
    assert resolved is (Precision.bf16 if unit else Precision.fp32)
    assert reason == f"the CPU has {unit or 'neither AMX nor AVX512_BF16'}"
    assert scope(CPU, resolved, 1)["bf16_unit"] == unit
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")  # its older name, which counts where the other is not set
    assert bf16_unit() == (unit if allowed else None)
    for chosen in (Precision.bf16, Precision.fp32):
        assert resolve_precision(chosen, CPU) == (chosen, "as configured")


@pytest.mark.parametrize(("capability", "resolved"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_a_gpu_from_compute_capability_8(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], resolved: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision(Precision.auto, torch.device("cuda"))[0].name == resolved


def test_the_device_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(RuntimeConfig()) == resolve_device(RuntimeConfig(device=Device.cpu)) == CPU
    with pytest.raises(ResourceError, match=r"^runtime\.device must be a device torch can see, got .*runtime=cpu"):
        resolve_device(RuntimeConfig(device=Device.cuda))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that it is put back
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert resolve_device(RuntimeConfig()).type == "cuda"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8", "before anything is multiplied there"
    assert resolve_device(RuntimeConfig(device=Device.cpu)) == CPU


@pytest.mark.parametrize(
    ("built_for", "remedy"),
    [
        (None, "install the CUDA build of torch (make setup)."),
        ("13.0", "install a driver that serves CUDA 13.0, which"),
    ],
)
def test_what_a_missing_gpu_lacks_is_said(monkeypatch: pytest.MonkeyPatch, built_for: str | None, remedy: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(ResourceError) as error:
        resolve_device(RuntimeConfig(device=Device.cuda))
    assert f"Use runtime=cpu, or {remedy}" in str(error.value)


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


def test_a_run_on_the_cpu_does_not_start_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    state = rng_state()
    assert set(state) == {"torch"}
    set_rng_state({**state, "cuda": state["torch"]})  # a checkpoint of a run on one


def test_attention_is_without_padding_unless_chosen() -> None:
    assert resolve_attention(RuntimeConfig()) is Attention.varlen
    for chosen in (Attention.eager, Attention.sdpa, Attention.varlen):
        assert resolve_attention(RuntimeConfig(attention=chosen)) is chosen


def test_the_token_budget_is_configured_or_a_function_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert micro_batch_tokens(RuntimeConfig(micro_batch_tokens=77), CPU, 384, 6) == 77
    for unit, tokens in (("AMX", reproducibility.CPU_TOKENS), (None, reproducibility.CPU_TOKENS // 2)):
        monkeypatch.setattr(reproducibility, "bf16_unit", lambda unit=unit: unit)
        assert micro_batch_tokens(RuntimeConfig(), CPU, 384, 6) == tokens
    memory = {"bytes": 24 * 2**30}

    @dataclasses.dataclass
    class Properties:
        total_memory: int

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties(memory["bytes"]))
    cuda = torch.device("cuda")
    small, large = (
        micro_batch_tokens(RuntimeConfig(), cuda, 384, 6),
        micro_batch_tokens(RuntimeConfig(), cuda, 1024, 28),
    )
    assert small == micro_batch_tokens(RuntimeConfig(), cuda, 384, 6) > large >= 8192
    assert small & (small - 1) == 0
    memory["bytes"] = 2**30
    assert micro_batch_tokens(RuntimeConfig(), cuda, 1024, 28) == 8192


def test_the_scope_names_whatever_moves_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(reproducibility, "bf16_unit", lambda: "AMX")
    here = scope(CPU, Precision.fp32, 8192)
    assert here == scope(CPU, Precision.fp32, 8192)
    assert here["torch"] == str(torch.__version__) and here["threads"] == torch.get_num_threads()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    changed = {
        "onednn_max_isa": scope(CPU, Precision.fp32, 8192),
        "precision": {**scope(CPU, Precision.bf16, 8192), "onednn_max_isa": "default"},
        "micro_batch_tokens": {**scope(CPU, Precision.fp32, 4096), "onednn_max_isa": "default"},
    }
    monkeypatch.setattr(reproducibility, "bf16_unit", lambda: "AVX512_BF16")
    changed["bf16_unit"] = {**scope(CPU, Precision.fp32, 8192), "onednn_max_isa": "default"}
    for name, other in changed.items():
        assert {key for key in here if here[key] != other[key]} == {name}


def test_scopes_say_what_differs() -> None:
    assert differences({"torch": "1", "threads": 2}, {"torch": "1", "threads": 4}) == "threads 2 → 4"
    assert differences({"torch": "1"}, {"torch": "1", "new": 3}) == "new None → 3"
    assert differences(None, {"torch": "1"}) == "" == differences({"torch": "1"}, None)


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
from pipeline.core.reproducibility import release_memory, reuse_memory

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
