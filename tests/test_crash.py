"""Real processes of `scripts/train.py`, killed: the run that is started again ends with the undisturbed one's bits."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.command_arguments import Faults
from pipeline.core import artifacts, atomic
from pipeline.core.errors import EXIT_REQUEUE, EXIT_STATUS, ArtifactError
from pipeline.engine import checkpoints
from pipeline.faults import campaign
from pipeline.faults.damage import damage, damages, files_of
from pipeline.faults.kills import Record, Undisturbed, chain, undisturbed
from pipeline.faults.victim import TRAIN, Place, Server, kill

SMOKE = campaign.arguments(Faults())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("home"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def reference(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(Place(tmp_path_factory.mktemp("undisturbed"), SMOKE, server))


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Place:
    return Place(tmp_path / "run", SMOKE, server)


def wait_for(place: Place, pattern: str, lines: int = 0) -> None:
    """Wait until the run has a file or folder of this pattern and, if `lines` is given, so many lines in it."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        found = list(place.outputs.glob(pattern))
        if found and (not lines or len(found[0].read_text().splitlines()) >= lines):
            return
        time.sleep(0.002)
    pytest.fail(f"no {pattern} in time: {place.said()}")


def only(place: Place, pattern: str) -> Path:
    (found,) = place.outputs.glob(pattern)
    return found


def test_forked_and_subprocess_runs_are_equal(reference: Undisturbed, place: Place) -> None:
    words = [*SMOKE, f"outputs_dir={place.outputs}"]
    done = subprocess.run([sys.executable, str(TRAIN), *words], cwd=place.root / "here", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert place.wrong(reference.results) == []
    assert sum(name.endswith("model/model.safetensors") for name in reference.results) == 1
    assert len(reference.results) > 30


# --- Kills ------------------------------------------------------------------------------------------------------------


def test_kills_at_random_moments_lose_nothing(reference: Undisturbed, place: Place) -> None:
    record = Record()
    chain(place, reference, random.Random(4), 3, record)
    assert record.lost == []
    assert record.chains == [record.kills.total()] == [record.kinds.total()] and record.kills.total() >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_campaign_loses_nothing(tmp_path: Path) -> None:
    record, path = campaign.run(Faults(kills=20, files=40, outputs_dir=str(tmp_path)))
    assert record.lost == []
    assert {"mine", "train"} < set(record.kills) and record.kills.total() >= 20
    assert atomic.read_json(path)["file_faults"] == 40


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_in_training_writes_a_checkpoint_and_exits_with_75(place: Place, number: signal.Signals) -> None:
    place.arguments = [*SMOKE, "training.epochs=8", "training.max_steps=160", "training.eval_steps=80"]
    pid = place.start()
    wait_for(place, "runs/*/metrics.jsonl", lines=6)
    kill(pid, number)
    assert place.server.ended(300) == EXIT_REQUEUE and place.one_sentence("interrupted: training was"), place.said()
    stopped = checkpoints.steps(only(place, "runs/*/checkpoints"))[-1]
    assert 0 < stopped < 160
    assert place.finish() == 0, place.said()
    model = only(place, "runs/*/model")
    rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 161))
    facts = atomic.read_json(model / "training.json")
    assert (facts["resumed_at"], facts["processes"]) == ([stopped], 2)


def test_closed_terminal_writes_a_checkpoint_and_exits_with_75(place: Place) -> None:
    """A real terminal: after it is closed nothing can be written to it, and its shell sends SIGHUP a second time."""

    def begin() -> None:
        os.login_tty(its)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup

    ours, its = os.openpty()
    words = [*SMOKE, "training.epochs=8", "training.max_steps=160", "training.eval_steps=80"]
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *words, f"outputs_dir={place.outputs}"], cwd=place.root / "here",
        preexec_fn=begin,
    )  # fmt: skip
    os.close(its)
    end, shown = time.monotonic() + 300, b""
    while not any(len(p.read_text().splitlines()) > 5 for p in place.outputs.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < end, shown.decode()
        if select.select([ours], [], [], 0.01)[0]:
            shown += os.read(ours, 4096)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(300) == EXIT_REQUEUE
    assert 0 < checkpoints.steps(only(place, "runs/*/checkpoints"))[-1] < 160
    log = only(place, "logs/*/train.log").read_text()
    assert log.count("stopping after this step (signal 1)") == 1 and "Interrupted: training was asked to stop" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", ["mine", "evaluate"])
def test_signal_in_another_stage_keeps_finished_work(
    reference: Undisturbed, place: Place, stage: str, number: signal.Signals
) -> None:
    if stage == "evaluate":
        shutil.copytree(reference.place.outputs, place.outputs, symlinks=True)
        for pattern in ("runs/*/evaluations", "runs/*/card"):
            shutil.rmtree(only(place, pattern))
    before = place.complete()
    pid = place.start()
    wait_for(place, {"mine": "mined/.*.partial", "evaluate": "runs/*/evaluations/.*.partial"}[stage])
    kill(pid, number)
    assert place.server.ended(300) == EXIT_REQUEUE, place.said()
    assert place.one_sentence("interrupted: finished work is kept. Run the same command again to continue.")
    assert place.complete() == before
    assert not list(place.outputs.rglob("*.partial"))
    assert place.finish() == 0, place.said()
    assert place.wrong(reference.results) == []


def test_killed_process_time_is_counted(place: Place) -> None:
    place.arguments = [*SMOKE, "training.epochs=8", "training.max_steps=400", "training.eval_steps=0"]
    pid = place.start()
    wait_for(place, "runs/*/metrics.jsonl", lines=2)
    time.sleep(2.5)  # no checkpoint before the last step: all of this will be repeated
    kill(pid, signal.SIGKILL)
    assert place.server.ended(60) == -signal.SIGKILL and not list(place.outputs.glob("runs/*/checkpoints/step-*"))
    (earlier,) = atomic.read_json(only(place, "runs/*/.model.pieces.json"))
    assert earlier["duration_s"] > 1.5
    assert place.finish() == 0, place.said()
    facts = atomic.read_json(only(place, "runs/*/model/training.json"))
    assert facts["processes"] == 2 and facts["wall_seconds"] >= facts["seconds"] + earlier["duration_s"]


def test_power_loss_takes_only_unsynced_files(reference: Undisturbed, place: Place) -> None:
    for lines in (7, 12):  # one step after the checkpoints of steps 4 and 8
        pid = place.start()
        wait_for(place, "runs/*/metrics.jsonl", lines)
        kill(pid, signal.SIGKILL)
        place.server.ended(60)
        complete = place.complete()
        assert any("checkpoints" in name for name in complete)
        assert place.lose_unsynced() > 0, "logs are not synced"
        assert place.complete() == complete, "what was complete is on the disk"
        assert all(artifacts.problems(place.outputs / folder) == [] for folder in complete)
    assert place.finish() == 0, place.said()
    assert place.wrong(reference.results) == []


def test_simulated_power_loss_takes_unsynced_files(place: Place) -> None:
    place.outputs.mkdir()
    for name in ("kept", "changed"):
        (place.outputs / name).write_text("synced")
    synced = [place.outputs, *place.outputs.iterdir()]
    time.sleep(0.05)
    (place.root / "synced").write_text("".join(f"{path.stat().st_ino} {time.time_ns()}\n" for path in synced))
    time.sleep(0.05)
    (place.outputs / "changed").write_text("not synced")
    (place.outputs / "new").write_text("never synced")
    (place.outputs / "below").mkdir()
    (place.outputs / "below" / "x").write_text("")
    assert place.lose_unsynced() == 3
    assert sorted(path.name for path in place.outputs.rglob("*")) == ["below", "kept"]


# --- Files ------------------------------------------------------------------------------------------------------------


def test_damage_to_any_file_of_any_artefact_is_detected(reference: Undisturbed) -> None:
    draw, tried = random.Random(1), 0
    for manifest in sorted(reference.place.outputs.rglob(artifacts.MANIFEST)):
        folder = manifest.parent
        for path in [*artifacts.files(folder), manifest]:
            data = path.read_bytes()
            for fault, damaged in damages(data, draw):
                path.unlink() if damaged is None else path.write_bytes(damaged)
                tried += 1
                assert not artifacts.is_complete(folder), (path, fault)
                if folder.parent.name == "checkpoints":
                    with pytest.raises(ArtifactError):
                        checkpoints.read(folder)
            path.write_bytes(data)
    assert tried > 120
    assert reference.place.wrong(reference.results) == []


@pytest.mark.parametrize(
    ("pattern", "fault", "outcome"),
    [
        ("runs/*/checkpoints/step-0000012/optimizer.pt", "flipped", "made again or not needed"),
        ("runs/*/model/model.safetensors", "truncated", "made again or not needed"),
        ("mined/*/train/passages.parquet", "missing", "made again or not needed"),
        ("cache/packaged-docs-*.jsonl", "flipped", "made again or not needed"),
        ("runs/*/summary.json", "flipped", "made again or not needed"),
        ("runs/*/config.yaml", "flipped", "made again or not needed"),
        ("hub.lock.json", "truncated", "refused"),
    ],
)
def test_damaged_file_is_made_again_or_refused(
    reference: Undisturbed, place: Place, pattern: str, fault: str, outcome: str
) -> None:
    path = only(reference.place, pattern)
    assert path.relative_to(reference.place.outputs) in files_of(reference.place.outputs)
    damaged = dict(damages(path.read_bytes(), random.Random(1)))[fault]
    name = path.relative_to(reference.place.outputs)
    assert damage(place, reference, name, fault, damaged) == (outcome, [])


def test_run_without_an_intact_checkpoint_is_refused_in_one_sentence(reference: Undisturbed, place: Place) -> None:
    shutil.copytree(reference.place.outputs, place.outputs, symlinks=True)
    for pattern in ("runs/*/model", "runs/*/evaluations", "runs/*/card"):
        shutil.rmtree(only(place, pattern))
    for path in place.outputs.glob("runs/*/checkpoints/*/model.safetensors"):
        os.truncate(path, 100)
    assert place.finish() == EXIT_STATUS
    assert place.one_sentence("error: ") and "delete" in place.said()
