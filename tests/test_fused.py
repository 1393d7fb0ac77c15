"""Where Triton's kernels run and where operators do."""

from __future__ import annotations

import logging

import pytest
import torch
from packed_models import run_plain_kernels

from pipeline.networks import fused, kernels

CPU = torch.device("cpu")


def test_a_cpu_runs_operators() -> None:
    assert not fused.available_for(torch.zeros(2, 4, dtype=torch.bfloat16))
    assert fused.version(CPU) is None


def test_kernels_that_agree_with_operators_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    run_plain_kernels(monkeypatch)
    monkeypatch.setattr(kernels, "triton_version", lambda: "3")
    assert fused._work.__wrapped__(CPU)


@pytest.mark.parametrize("name", ["apply_rotary", "geglu", "geglu_backward", "add_norm", "add_norm_backward"])
def test_kernels_that_do_not_agree_are_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_plain_kernels(monkeypatch)
    monkeypatch.setattr(kernels, "triton_version", lambda: "3")
    right = getattr(kernels, name)

    def wrong(*args: object, **kwargs: object) -> object:
        found = right(*args, **kwargs)
        return 1.1 * found if isinstance(found, torch.Tensor) else (*found[:-1], 1.1 * found[-1])

    monkeypatch.setattr(kernels, name, wrong)
    assert not fused._work.__wrapped__(CPU)
    assert "their results differ from torch's operators" in caplog.text


def test_kernels_are_tried_once_however_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(kernels, "triton_version", lambda: "3")
    monkeypatch.setattr(fused, "_agree_with_operators", lambda device: tried.append(device) is None)
    fused._work.cache_clear()
    assert [fused.version(torch.device(name)) for name in ("cuda", "cuda:0")] == ["3", "3"]
    assert fused._work(torch.device("cuda", 0))
    fused._work.cache_clear()
    assert tried == [torch.device("cuda", 0)]


def test_kernels_that_do_not_compile_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable")

    monkeypatch.setattr(kernels, "triton_version", lambda: "3")
    monkeypatch.setattr(kernels, "apply_rotary", broken)
    with caplog.at_level(logging.INFO):
        assert not fused._work.__wrapped__(CPU)
    assert "fused kernels off: Triton does not compile (Failed to find C compiler." in caplog.text
