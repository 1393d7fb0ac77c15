"""What decides device, precision, budget and scope on a machine."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention, Device, RuntimeConfig
from pipeline.core import processor
from pipeline.core.errors import ResourceError
from pipeline.core.processor import bf16_unit
from pipeline.engine import machine
from pipeline.engine.machine import micro_batch_tokens, resolve_attention, resolve_device, resolve_precision, scope

CPU = torch.device("cpu")


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
        ("13.0", "install a driver that supports CUDA 13.0, which"),
    ],
)
def test_what_a_missing_gpu_lacks_is_said(monkeypatch: pytest.MonkeyPatch, built_for: str | None, remedy: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(ResourceError) as error:
        resolve_device(RuntimeConfig(device=Device.cuda))
    assert f"Use runtime=cpu, or {remedy}" in str(error.value)


def test_attention_is_without_padding_unless_chosen() -> None:
    assert resolve_attention(RuntimeConfig()) is Attention.varlen
    for chosen in (Attention.eager, Attention.sdpa, Attention.varlen):
        assert resolve_attention(RuntimeConfig(attention=chosen)) is chosen


def test_the_token_budget_is_configured_or_a_function_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert micro_batch_tokens(RuntimeConfig(micro_batch_tokens=77), CPU, 384, 6) == 77
    for unit, tokens in (("AMX", machine.CPU_TOKENS), (None, machine.CPU_TOKENS // 2)):
        monkeypatch.setattr(processor, "bf16_unit", lambda unit=unit: unit)
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
    monkeypatch.setattr(processor, "bf16_unit", lambda: "AMX")
    here = scope(CPU, Precision.fp32, 8192)
    assert here == scope(CPU, Precision.fp32, 8192)
    assert here["torch"] == str(torch.__version__) and here["threads"] == torch.get_num_threads()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    changed = {
        "onednn_max_isa": scope(CPU, Precision.fp32, 8192),
        "precision": {**scope(CPU, Precision.bf16, 8192), "onednn_max_isa": "default"},
        "micro_batch_tokens": {**scope(CPU, Precision.fp32, 4096), "onednn_max_isa": "default"},
    }
    monkeypatch.setattr(processor, "bf16_unit", lambda: "AVX512_BF16")
    changed["bf16_unit"] = {**scope(CPU, Precision.fp32, 8192), "onednn_max_isa": "default"}
    for name, other in changed.items():
        assert {key for key in here if here[key] != other[key]} == {name}
