"""Tracking against the real W&B client, offline: one id, and no failure of it reaches the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.runtime import TrackingConfig, Wandb
from pipeline.telemetry.tracking import NoTracker, WandbTracker, start

ROOT = Path(__file__).resolve().parents[1]
SECRET = "correct-horse"

KILLED = """
import logging, sys, time
from pathlib import Path
import psutil
from pipeline.config.runtime import TrackingConfig, Wandb
from pipeline.telemetry.tracking import start
logging.basicConfig(level=logging.WARNING)
tracker = start(TrackingConfig(wandb=Wandb.offline), "run-1", Path(sys.argv[1]), {})
tracker.log(1, {"loss": 1.0})
children = psutil.Process().children(recursive=True)
for child in children:
    child.kill()
psutil.wait_procs(children, timeout=10)
for step in range(2, 6):
    time.sleep(0.2)
    tracker.log(step, {"loss": 1.0})
print("REPORT", tracker.finish())
"""


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A child would use this process's W&B service, which is not the child's to kill.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_none_is_the_default_and_imports_no_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.telemetry import tracking\n"
        "from pipeline.config.runtime import TrackingConfig\n"
        "t = tracking.start(TrackingConfig(), 'x', Path(sys.argv[1]) / 'w', {}); t.log(1, {'loss': 1.0})\n"
        "assert t.finish() is None; assert 'wandb' not in sys.modules"
    )
    done = _python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "w").exists()
    assert isinstance(start(TrackingConfig(), "x", tmp_path, {}), NoTracker)


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    """A folder with one offline run `run-1`, logged to in two pieces as after a resume."""
    for steps in ((0, 1), (1, 2)):
        tracker = start(
            TrackingConfig(wandb=Wandb.offline),
            "run-1",
            tmp_path,
            {"path": f"https://me:{SECRET}@host/x", "title": "Docstrings"},
        )
        for step in steps:
            tracker.log(step, {"loss": 0.5 + step, "dev_ndcg@10": float("nan")})
        assert tracker.finish() is None
    return tmp_path


def test_a_resumed_run_keeps_its_id(offline: Path) -> None:
    files = sorted(offline.rglob("*.wandb"))
    assert [path.name for path in files] == ["run-run-1.wandb"] * len(files)
    assert files
    # W&B's service writes on after `finish` has returned.
    end = time.monotonic() + 60
    while not all(b"loss" in path.read_bytes() for path in files) and time.monotonic() < end:
        time.sleep(0.2)
    assert [path.name for path in files if b"loss" not in path.read_bytes()] == []
    assert all(b"Docstrings" in path.read_bytes() for path in files)


def test_no_credential_of_the_configuration_is_written(offline: Path) -> None:
    assert not [path for path in offline.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_the_command_line_is_not_written(offline: Path) -> None:
    assert not list(offline.rglob("wandb-metadata.json"))


def test_a_killed_service_is_warned_about_once_and_the_run_goes_on(tmp_path: Path) -> None:
    done = _python(KILLED, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B stopped working") == 1
    assert "Traceback" not in done.stderr
    report = done.stdout.partition("REPORT ")[2]
    assert report.startswith("W&B failed (")
    assert "rows were not mirrored" in report


@pytest.mark.parametrize(
    ("message", "said"), [("", "OSError"), ("\n \n", "OSError"), ("\n no login\nat all", "OSError: no login")]
)
def test_a_failure_is_told_by_the_first_line_that_says_something(message: str, said: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be: no service is started")
    tracker = WandbTracker(TrackingConfig(wandb=Wandb.offline), "run-1", blocked, {})
    tracker._fail(OSError(message))
    assert f"W&B failed ({said});" in str(tracker.finish())


def test_a_tracker_that_cannot_start_is_reported_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the folder should be")
    tracker = WandbTracker(TrackingConfig(wandb=Wandb.offline), "run-1", blocked / "below", {})
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 1.0})
    assert "at least 2 rows" in str(tracker.finish())
    assert len([r for r in caplog.records if "W&B stopped working" in r.message]) == 1
