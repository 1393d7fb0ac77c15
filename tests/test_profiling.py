"""A profile holds every operator's own time, as table, JSON and trace; it leaves no run behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import tiny_config
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEventAvg

from pipeline.commands.profiling import BETWEEN, ROWS, operators_of, run_profile, table
from pipeline.config.command_arguments import Profile
from pipeline.core import artifacts
from pipeline.core.errors import ConfigError
from pipeline.engine import lanes, steps


def test_profile_holds_the_time_of_every_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run would use two lanes here; the profiler does not see what other threads do.
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    monkeypatch.setattr(lanes, "available", lambda: 2)
    run_profile(Profile(steps=2), tiny_config(tmp_path))
    (folder,) = (tmp_path / "profiles").iterdir()
    assert artifacts.is_complete(folder)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "latest").exists()
    found = json.loads((folder / "profile.json").read_text())
    keys = {"operator", "calls", "cpu_seconds", "gpu_seconds", "share"}
    assert all(set(row) == keys for row in found["operators"])
    shares = [row["share"] for row in found["operators"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    calls = {row["operator"]: row["calls"] for row in found["operators"]}
    # One update a profiled step, and none of the two steps before.
    assert (found["steps"], calls["Optimizer.step#AdamW.step"]) == (2, 2)
    assert calls["_LayerBackward"] >= 2
    assert {event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]} >= set(
        calls
    ) - {BETWEEN}
    assert (folder / "table.txt").read_text() == table(found["operators"]) + "\n"
    assert len(table(found["operators"]).splitlines()) == ROWS + 1


class ProfileOfTwoOperators:
    """Stands for torch's profiler on a GPU: each operator has a row, and its kernel another."""

    def key_averages(self) -> EventList:
        rows = [
            ("aten::mm", DeviceType.CPU, 30, 300), ("ampere_gemm", DeviceType.CUDA, 0, 300),
            ("aten::add", DeviceType.CPU, 20, 100), ("elementwise", DeviceType.CUDA, 0, 100),
            ("ProfilerStep#2", DeviceType.CUDA, 0, 5_000), ("aten::view", DeviceType.CPU, 9, 0),
        ]  # fmt: skip
        found = []
        for key, device, cpu, gpu in rows:
            event = FunctionEventAvg()
            event.key, event.device_type, event.count = key, device, 1
            event.self_cpu_time_total, event.self_device_time_total = cpu, gpu
            found.append(event)
        return EventList(found)


def test_gpu_time_is_counted_once_per_operator() -> None:
    found = operators_of(ProfileOfTwoOperators(), gpu=True)
    assert {row["operator"]: row["share"] for row in found} == pytest.approx({"aten::mm": 0.75, "aten::add": 0.25})
    assert [(row["operator"], row["gpu_seconds"]) for row in found] == [("aten::mm", 3e-4), ("aten::add", 1e-4)]


def test_profile_of_no_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"steps must be at least 1, got 0. Pass steps=5."):
        Profile(steps=0)
