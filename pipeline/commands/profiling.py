"""Show where a training step's time goes: run a few steps under torch's profiler. No trained weights are kept."""

from __future__ import annotations

import dataclasses
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.profiler import DeviceType, ProfilerActivity, profile, schedule

from pipeline.config.command_arguments import Profile
from pipeline.config.schema import Config
from pipeline.core import artifacts, atomic
from pipeline.core.console import shown
from pipeline.core.fingerprint import plain
from pipeline.core.provenance import record
from pipeline.engine.training import Hooks, Trainer
from pipeline.stages.banner import announce
from pipeline.stages.mine import mine
from pipeline.stages.models import load
from pipeline.stages.plan import RunPlan
from pipeline.stages.train import training_rows

log = logging.getLogger(__name__)

WARM_STEPS = 2
"""Steps before the profiled ones: the first allocate memory and choose kernels."""

ROWS = 15
"""Number of operators in the table."""

BETWEEN = "(between operators)"
"""Name in the results for a step's time outside operators, spent in Python or waiting."""


def run_profile(asked: Profile, config: Config) -> None:
    """Profile `asked.steps` steps of the configuration's training, after mining what is missing.

    Here micro-batches run one after another on a CPU, each on all threads. The results are in a folder below
    `outputs_dir/profiles`, with `trace.json` (for a trace viewer such as Perfetto), `profile.json` (every operator:
    calls, its own seconds on CPU and GPU, share) and `table.txt`.

    Raises:
        PipelineError: for every error that the user can act on.
    """
    run = RunPlan(config)
    announce(run)
    mine(run)
    reranker = load(run, run.base.folder, config.model)
    rows = training_rows(run, reranker)
    steps = WARM_STEPS + asked.steps
    training = dataclasses.replace(
        run.config.training, max_steps=steps, logging_steps=1, eval_steps=0, eval_sets=[], keep_best=False
    )
    folder = run.outputs / "profiles" / run.folder.name
    gpu = run.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    made_by = record(sys.argv, plain(run.config))
    with tempfile.TemporaryDirectory() as scratch:
        window = schedule(wait=0, warmup=WARM_STEPS, active=asked.steps, repeat=1)
        with profile(activities=activities, schedule=window) as profiler:
            trainer = Trainer(
                reranker, rows, training, seed=config.seed, device=run.device, precision=training.precision,
                token_budget=run.token_budget(reranker.hidden_size, reranker.layers), folder=Path(scratch),
                identity={}, hooks=Hooks(on_row=lambda logged: profiler.step()),
            )  # fmt: skip
            trainer.updater.lanes = 1  # the profiler records only the thread that started it
            facts = trainer.run()
        with artifacts.publish(folder, {"artifact": "profile", "provenance": made_by}) as work:
            operators = operators_of(profiler, gpu)
            profiler.export_chrome_trace(str(work / "trace.json"))
            found = {
                "steps": asked.steps, "batch_size": training.batch_size, "precision": training.precision.name,
                "pairs_per_second": facts["pairs_per_second"], "operators": operators,
            }  # fmt: skip
            atomic.write_json(work / "profile.json", found)
            atomic.write_text(work / "table.txt", table(operators) + "\n")
    log.info("%s\n\n%d steps of %d pairs, in %s", table(operators), asked.steps, training.batch_size, shown(folder))


def operators_of(profiler: Any, gpu: bool) -> list[dict[str, Any]]:
    """Return the operators with time of their own, the most costly first.

    An operator's own time leaves out the operators that it calls. Order and share count GPU time with `gpu`, else CPU
    time.
    """
    found = []
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # GPU kernels, whose time is also counted for the operators that launched them
        cpu, device = event.self_cpu_time_total / 1e6, event.self_device_time_total / 1e6
        counted = device if gpu else cpu
        if counted > 0:
            name = BETWEEN if event.key.startswith("ProfilerStep") else event.key
            row = {"operator": name, "calls": event.count, "cpu_seconds": cpu, "gpu_seconds": device}
            found.append((counted, row))
    whole = sum(counted for counted, _ in found)
    found.sort(key=lambda of: (-of[0], of[1]["operator"]))
    return [{**row, "share": counted / whole} for counted, row in found]


def table(operators: list[dict[str, Any]]) -> str:
    """Return the `ROWS` most costly operators as a table, one per line."""
    lines = [f"{'operator':<52} {'calls':>7} {'CPU s':>8} {'GPU s':>8} {'share':>6}"]
    for row in operators[:ROWS]:
        lines.append(
            f"{row['operator'][:52]:<52} {row['calls']:>7,} {row['cpu_seconds']:>8.3f} {row['gpu_seconds']:>8.3f} "
            f"{row['share']:>6.1%}"
        )
    return "\n".join(lines)
