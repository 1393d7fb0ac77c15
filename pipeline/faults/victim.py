"""A run that will be broken on purpose: started in folders of its own, killed, and compared with an undisturbed one.

Runs `scripts/train.py` as a user does, in processes forked from one that has imported everything: while a run imports,
it has nothing to lose. Knows nothing of how many faults there are or what they mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError, must
from pipeline.core.fingerprint import file_digest

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"

TIMES = ("pairs_per_second", "tokens_per_second", "train_seconds", "seconds", "wall_seconds")
HISTORY = (*TIMES, "processes", "resumed_at")
"""Keys of a log's rows and of training.json that may differ from run to run."""

VOLATILE = (artifacts.MANIFEST, "emissions.json", "README.md", "summary.json", "config.yaml", "tracking.json")
"""Files that hold times, commands or paths; every other file of a run must be the same to the bit."""


class Server:
    """A process that has imported the pipeline, has no other thread, and forks one run at a time."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment.pop("WANDB_SERVICE", None)  # another process's W&B service, when that one has tracked something
        environment["PYTHONPATH"] = os.pathsep.join([str(TRAIN.parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self._read = b""
        self._running: int | None = None
        self.seconds = 0.0
        """Processor seconds of the run that ended last."""
        if self._answer(None) != "ready":
            raise ArtifactError(must("a server of runs", "start", "no answer", "Run `make setup`; its error is above."))

    def start(self, request: dict[str, Any]) -> int:
        """Fork a run and return its process id, which is also the id of its process group."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        self._running = int(self._answer(None))
        return self._running

    def ended(self, seconds: float | None) -> int | None:
        """Return the run's exit status (negative: the signal that ended it), None if it still runs after `seconds`."""
        answer = self._answer(seconds)
        if not answer:
            return None
        self._running, self.seconds = None, float(answer.split()[1])
        return int(answer.split()[0])

    def _answer(self, seconds: float | None) -> str:
        """Return the next line. The stream's own buffer is not used: `select` would not see what waits in it."""
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            more = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not more:
                return ""
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """End the server and the run under way, if any."""
        if self._running is not None:
            kill(self._running, signal.SIGKILL)
        self._process.communicate()


def serve() -> None:
    """Run the server: read a request per line on standard input, write process id and status to standard output."""
    import pipeline.stages.run  # noqa: F401

    # The threads of numpy's BLAS and pyarrow's allocator are not counted: their own fork handlers start them again.
    assert threading.active_count() == 1, "a thread would be lost in the fork, with the locks it holds"
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here too: the run may be killed before it sets its group itself
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, flush=True)


def _become(request: dict[str, Any]) -> None:
    """Turn a forked process into a run of scripts/train.py, which ends with SystemExit."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the server runs under nohup
    os.chdir(request["folder"])
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (said, 1), (said, 2)):
        os.dup2(descriptor, target)
    if request["synced"]:
        _note_syncs(Path(request["synced"]))
    sys.argv = [str(TRAIN), *request["arguments"]]
    runpy.run_path(str(TRAIN), run_name="__main__")
    raise SystemExit(0)


def _note_syncs(journal: Path) -> None:
    """Append every later sync to a journal: the inode, and the time up to which its content is on the disk."""
    stream, real = journal.open("a"), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        stream.write(f"{os.fstat(descriptor).st_ino} {time.time_ns()}\n")
        stream.flush()

    os.fsync = fsync  # type: ignore[assignment]


@dataclass(slots=True)
class Place:
    """Folders of one run: its outputs, and the empty one it is started in."""

    root: Path
    arguments: Sequence[str]
    server: Server
    _journal: Path = field(init=False)

    def __post_init__(self) -> None:
        (self.root / "here").mkdir(parents=True, exist_ok=True)
        self._journal = self.root / "synced"

    @property
    def outputs(self) -> Path:
        """The folder the run writes to."""
        return self.root / "outputs"

    def start(self) -> int:
        """Start the run in a process and return its id."""
        return self.server.start({
            "folder": str(self.root / "here"), "said": str(self.root / "said"), "synced": str(self._journal),
            "arguments": [*self.arguments, f"outputs_dir={self.outputs}"],
        })  # fmt: skip

    def finish(self) -> int:
        """Run to the end and return the exit status."""
        self.start()
        status = self.server.ended(None)
        assert status is not None
        return status

    def said(self) -> str:
        """Return what the last process wrote to its console."""
        return (self.root / "said").read_text(encoding="utf-8", errors="replace")

    def one_sentence(self, head: str) -> bool:
        """Return whether the last process printed exactly one line that starts with `head`, and no traceback."""
        said = self.said()
        return sum(line.startswith(head) for line in said.splitlines()) == 1 and "Traceback" not in said

    def lose_unsynced(self) -> int:
        """Imitate a power loss and return the number of losses.

        Files changed since their last sync lose half their content; files and folders with unsynced names vanish.
        """
        durable: dict[int, int] = {}
        for line in self._journal.read_text().splitlines() if self._journal.exists() else ():
            inode, _, moment = line.partition(" ")
            durable[int(inode)] = int(moment or 0)
        lost = 0
        for path in sorted(self.outputs.rglob("*"), reverse=True):
            status, synced = path.lstat(), durable.get(path.parent.stat().st_ino, 0)
            if path.is_dir() and not path.is_symlink() and not synced:
                shutil.rmtree(path)
            elif path.is_file() and status.st_ctime_ns > synced:
                path.unlink()
            elif path.is_file() and status.st_mtime_ns > durable.get(status.st_ino, 0):
                os.truncate(path, status.st_size // 2)
            else:
                continue
            lost += 1
        with self._journal.open("a") as stream:  # what is left was on the disk
            for path in (self.outputs, *self.outputs.rglob("*")):
                stream.write(f"{path.lstat().st_ino} {time.time_ns()}\n")
        return lost

    def complete(self) -> dict[str, float]:
        """Return every folder with a manifest, and the time the manifest was written (s)."""
        return {
            str(path.parent.relative_to(self.outputs)): path.stat().st_mtime
            for path in self.outputs.rglob(artifacts.MANIFEST)
        }

    def results(self) -> dict[str, Any]:
        """Return file → sha256 of what must not depend on when it ran; for logs and training.json, the rows instead."""
        found: dict[str, Any] = {}
        for path in sorted(path for name in ("mined", "tokens", "runs") for path in (self.outputs / name).rglob("*")):
            name = str(path.relative_to(self.outputs))
            if not path.is_file() or path.name in VOLATILE or path.suffix == ".lock" or "checkpoints" in path.parts:
                continue
            found[name] = file_digest(path)
            if path.name in ("metrics.jsonl", "training.json"):
                text = path.read_text(encoding="utf-8", errors="replace")
                with contextlib.suppress(ValueError):  # torn: the digest differs from any undisturbed rows
                    rows = [json.loads(line) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]
                    found[name] = [{key: row[key] for key in row if key not in HISTORY} for row in rows]
        return found

    def wrong(self, expected: dict[str, Any]) -> list[str]:
        """Return a sentence for each file that a finished run lacks, has with other content, or left lying about."""
        found = self.results()
        sentences = [f"{name} differs" for name in {**expected, **found} if expected.get(name) != found.get(name)]
        sentences += [f"{path} was left" for path in self.outputs.rglob(f"*{atomic.PARTIAL}")]
        sentences += [f"{path} was written outside" for path in (self.root / "here").rglob("*")]
        for folder in self.complete():
            # A damaged checkpoint is skipped for another one; its effect, if any, is in the results.
            sentences += artifacts.problems(self.outputs / folder) if "checkpoints" not in folder else []
        return sentences


def used(pid: int) -> float:
    """Return the processor seconds that a run and its finished children have used so far; 0 once the run is gone.

    Moments are drawn in this time: unlike wall time, it does not depend on what else the machine does.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def kill(pid: int, number: signal.Signals) -> None:
    """Signal a run's whole group, as a scheduler or an exhausted machine does; ignore a run that has just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
