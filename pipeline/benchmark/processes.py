"""A measured run in a process of its own, and how busy the machine was meanwhile. Knows nothing of the work."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from pipeline.core import atomic
from pipeline.core.errors import ResourceError, must


def apart(module: str, job: dict[str, Any], folder: Path, what: str) -> dict[str, Any]:
    """Run `python -m <module> <job file>` offline; it writes the file `job["result"]`, which is added to `job` here.

    Returns:
        The result, with `load_before` (the load average of the minute before) and `others_cpu_share` (the share of the
        machine's processor time that other processes, or a hypervisor's other machines, took meanwhile).

    Raises:
        ResourceError: when the process fails, with the last line it printed; `what` names the run.
    """
    result = folder / "result.json"
    atomic.write_json(folder / "job.json", {**job, "result": str(result)})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    load, (busy, every), own = os.getloadavg()[0], _processors(), _children()
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder / "job.json")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, check=False,
    )  # fmt: skip
    (busy_after, every_after), own_after = _processors(), _children()
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ResourceError(must(f"a run of {what}", "finish", said, 'Try fewer rows: ARGS="… rows=<number>".'))
    others = busy_after - busy - (own_after - own)
    found: dict[str, Any] = atomic.read_json(result)
    return {**found, "load_before": load, "others_cpu_share": max(0.0, others / max(every_after - every, 1e-9))}


def _processors() -> tuple[float, float]:
    """Return (busy, all) processor seconds since this machine started; time a hypervisor gave to others is busy."""
    times = psutil.cpu_times()._asdict()
    every = sum(spent for kind, spent in times.items() if not kind.startswith("guest"))  # counted in user time
    return every - times["idle"] - times.get("iowait", 0.0), every


def _children() -> float:
    """Return the processor seconds of this process's ended children and of their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
