"""Scripts run one after another in one process beside the test's, each as its command line would run it.

Loading the libraries takes the time, so commands share a process. The hub client reads HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE when it is imported, so each such environment has its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WORKER = """
import contextlib, io, json, os, runpy, sys, time
from hydra.core.global_hydra import GlobalHydra
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["env"])
    GlobalHydra.instance().clear()
    out, err, status, began = io.StringIO(), io.StringIO(), 0, time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if asked["argv"][0] == "-c":
                exec(asked["argv"][1], {})
            else:
                sys.argv = asked["argv"]
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code or 0
    result = {"status": status, "out": out.getvalue(), "err": err.getvalue(), "cpu_s": time.process_time() - began}
    print(json.dumps(result), file=answers, flush=True)
"""


@dataclass
class Done:
    """How a command ended: its exit status and what it wrote; `cpu_s` shows where the tests' time goes."""

    status: int
    out: str
    err: str
    cpu_s: float


class ScriptProcess:
    """A process that runs one command after another."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def run(self, *argv: str, **environment: str) -> Done:
        """Run a script, or code after "-c"; the variables of `environment` stay set for later commands."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"argv": argv, "env": environment}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the process ended at {argv}:\n{self._log.read_text()[-3000:]}"
        return Done(**json.loads(answer))


@contextmanager
def script_process(root: Path, **environment: str) -> Iterator[ScriptProcess]:
    """Start a process with the hub's cache in `root`/home and none of the user's own hub settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    ours = {"HF_HOME": str(root / "home"), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = root / f"process-{len(list(root.glob('process-*')))}.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            env={**kept, **ours, **environment}, cwd=ROOT, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield ScriptProcess(process, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
