"""A user of the loopback hub whose every command is a process: the hub client reads its variables when imported.

Cases of one scenario share a process (they are different repositories), which keeps the tests fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback_hub import LoopbackHub

ROOT = Path(__file__).resolve().parents[1]

DRIVER = """
import json, logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
import pipeline.hub.download
from pipeline.core.errors import PipelineError
from pipeline.hub.location import locate
pipeline.hub.download.WAITS_S = (0.05, 0.05, 0.05, 0.05)
request = json.loads(sys.stdin.read())
def one(case):
    try:
        found = locate(case["path"], case.get("revision"), kind=case.get("kind", "model"), lock=Path(request["lock"]),
                       refresh=case.get("refresh", False), allow=case.get("allow"), key="model.path")
        return {"folder": str(found.folder), "identity": found.identity, "error": None}
    except PipelineError as error:
        return {"error": str(error), "type": type(error).__name__}
with ThreadPoolExecutor(6) as pool:
    print(json.dumps(list(pool.map(one, request["cases"]))))
"""
"""Locates each case of standard input; five attempts at what fails, almost without waits."""

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "model.safetensors": bytes(range(256)) * 500,
    "README.md": b"# A model\n",
}
"""A small model repository."""


@dataclass
class HubUser:
    """A cache and an outputs folder below `root`, and the output of the commands so far."""

    root: Path
    hub: LoopbackHub
    logs: list[str] = field(default_factory=list)

    @property
    def lock(self) -> Path:
        return self.root / "outputs" / "hub.lock.json"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        ours = {
            "HF_HOME": str(self.root / "home"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }
        return {**kept, **ours, **more}

    def start(self, *cases: dict[str, Any], stderr: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env=self.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"lock": str(self.lock), "cases": cases}))
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
        out, log = process.communicate(timeout=120)
        self.logs.append(out + (log or ""))
        assert process.returncode == 0, log
        results: list[dict[str, Any]] = json.loads(out)
        return results

    def locate(self, *cases: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        """Return what `locate` gives for each case: folder and identity, or its error; also after the hub has gone."""
        return self.finish(self.start(*cases, **environment))


def content(folder: str) -> dict[str, bytes]:
    """Return path → bytes of every file below a folder."""
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
