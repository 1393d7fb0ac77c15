"""What killed processes used: real ones of every stage, and of a stage of a few lines; their time and energy add up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.command_arguments import Faults
from pipeline.core import atomic
from pipeline.faults import campaign
from pipeline.faults.victim import Place, Server, kill
from pipeline.telemetry.emissions import measured
from pipeline.telemetry.energy_records import add
from pipeline.telemetry.stage_energy import NOTE_SECONDS, Pieces, counted

METERED = [word for word in campaign.arguments(Faults()) if word != "emissions=off"]

WORK = """
import sys, time
from pathlib import Path
from pipeline.telemetry.emissions import measured
from pipeline.telemetry.stage_energy import counted
with counted(Path(sys.argv[1])) as pieces:
    print("counting", flush=True)
    with measured(True, None, "work") as meter, pieces.metered(meter.snapshot):
        print("metered", flush=True)
        time.sleep(float(sys.argv[2]))
"""


def killed(path: Path, after: str, seconds: float) -> None:
    """A process that counts itself in `path`, killed so long after it has said a word."""
    with subprocess.Popen([sys.executable, "-c", WORK, str(path), "60"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.strip() == after for line in process.stdout)
        time.sleep(seconds)
        process.kill()


def test_a_killed_process_is_counted_to_the_second_with_its_energy(tmp_path: Path) -> None:
    path = tmp_path / ".x.pieces.json"
    killed(path, "counting", 0.0)  # before the tracker has started
    (first,) = Pieces(path).before
    assert first.keys() == {"duration_s"} and first["duration_s"] < NOTE_SECONDS
    killed(path, "metered", 2.5)
    _, second = Pieces(path).before
    assert second["duration_s"] > 1.5 and second["energy_kwh"] > 0 and second["method"]
    with counted(path) as pieces, measured(False, None, "x") as meter:
        assert pieces.before == [first, second]
        assert pieces.facts()["processes"] == 3
        assert pieces.facts()["wall_seconds"] >= first["duration_s"] + second["duration_s"]
    total = add([*pieces.before, meter.record])
    assert total["energy_kwh"] == second["energy_kwh"] and total["pieces_without_figures"] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_is_a_piece_too_and_its_last_reading_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "pieces.json"
    readings: Iterator[dict[str, Any]] = iter([{"enabled": False, "n": 1}, {"enabled": False, "n": 2}])
    with pytest.raises(KeyError), counted(path) as pieces, pieces.metered(lambda: next(readings)):
        assert [record["n"] for record in pieces.note()] == [1]
        raise KeyError
    (record,) = atomic.read_json(path)
    assert record["n"] == 2 and record["duration_s"] > 0


@pytest.mark.parametrize("text", ["", "{", "3", "[3]", '[{"duration_s": "x"}]', '[{"duration_s": 1, "energy_kwh": 2}]'])
def test_records_that_cannot_be_read_stop_no_stage(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pieces.json"
    path.write_text(text)
    with counted(path) as pieces:
        assert pieces.before == []
        pieces.recover([{"duration_s": 4.0}])
        assert pieces.facts()["processes"] == 2 and pieces.facts()["wall_seconds"] > 4
    assert "time and energy of earlier processes are not counted" in caplog.text
    assert not path.exists()


# --- Whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("home"))
    yield server
    server.close()


STAGES = {
    "mine": ("mined/.*.pieces.json", "mined/*/emissions.json"),
    "train": ("runs/*/.model.pieces.json", "runs/*/model/emissions.json"),
    "evaluate": ("runs/*/evaluations/.*.pieces.json", "runs/*/evaluations/*/emissions.json"),
    "card": ("runs/*/.card.pieces.json", "runs/*/card/emissions.json"),
}
"""Stage → its processes while it goes on, and its sums."""


def kill_in(place: Place, stage: str) -> dict[str, Any]:
    """Kill the run as soon as it counts itself in a stage, before it has loaded a model; what it had written last."""
    pieces, sums = STAGES[stage]
    for _ in range(5):
        pid = place.start()
        while place.server.ended(0.001) is None:
            if found := list(place.outputs.glob(pieces)):
                kill(pid, signal.SIGKILL)
                place.server.ended(60)
                if not list(place.outputs.glob(sums)):
                    record: dict[str, Any] = atomic.read_json(found[0])[-1]
                    return record
                break
        for path in place.outputs.glob(sums):  # it was faster than the signal: once more
            shutil.rmtree(path.parent)
    pytest.fail(f"never caught in {stage}: {place.said()}")


def test_the_table_and_the_card_cover_the_killed_processes_of_every_stage(server: Server, tmp_path: Path) -> None:
    place, lost = Place(tmp_path / "run", METERED, server), {}
    for stage in STAGES:
        lost[stage] = kill_in(place, stage)
        assert bool(list(place.outputs.glob("runs/*/metrics.jsonl"))) == (stage in ("evaluate", "card"))
    assert place.finish() == 0, place.said()
    assert not list(place.outputs.rglob(".*.pieces.json"))
    for stage, (_, sums) in STAGES.items():
        (path,) = place.outputs.glob(sums)
        record = atomic.read_json(path)
        assert record["processes"] == 2 and record["wall_seconds"] > lost[stage]["duration_s"], stage
        assert record["energy_kwh"] > 0 and record["pieces_without_figures"] == ("energy_kwh" not in lost[stage])
    (summary,) = place.outputs.glob("runs/*/summary.json")
    assert set(atomic.read_json(summary)["emissions"]["stages"]) == {"mine", "train", "evaluate dev", "card"}
    assert " ".join(place.said().split()).count("over 2 processes") >= 4


def test_what_a_finished_stage_left_is_not_counted_for_a_later_one(server: Server, tmp_path: Path) -> None:
    place = Place(tmp_path / "run", campaign.arguments(Faults()), server)
    assert place.finish() == 0, place.said()
    (mined,) = place.outputs.glob("mined/*/")
    left = mined.parent / f".{mined.name}.pieces.json"
    left.write_text('[{"duration_s": 1000.0}]')  # killed between publishing and removing it
    assert place.finish() == 0 and not left.exists()
    shutil.rmtree(mined / "dev")
    assert place.finish() == 0, place.said()
    assert atomic.read_json(mined / "emissions.json")["processes"] == 1
