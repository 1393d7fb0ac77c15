"""Energy as the real codecarbon measures it, offline: figures, method and grid; its failures stop nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from pipeline.telemetry.emissions import WORLD_AVERAGE, _methods, _overall, check_country, measured
from pipeline.telemetry.energy_records import ESTIMATED, MEASURED, PARTLY

ROOT = Path(__file__).resolve().parents[1]


def _work(seconds: float = 0.3) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test opens a connection: codecarbon swallows what a refusal raises, so attempts are counted."""
    attempts: list[object] = []

    def refuse(*arguments: object, **_: object) -> NoReturn:
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    yield
    assert attempts == []


def test_world_average_is_used_and_recorded_without_a_country(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with measured(True, None, "train") as meter:
        _work()
    record = meter.record
    assert record["grid"] == WORLD_AVERAGE
    assert record["country_iso_code"] is None
    assert record["g_per_kwh"] == pytest.approx(475)
    assert record["energy_kwh"] > 0
    parts = sum(record[f"{part}_energy_kwh"] for part in ("cpu", "gpu", "ram"))
    assert parts == pytest.approx(record["energy_kwh"])
    assert record["emissions_kg"] == pytest.approx(0.475 * record["energy_kwh"])
    assert 0.25 < record["duration_s"] < 30
    assert record["method"] in (MEASURED, PARTLY, ESTIMATED)
    assert record["method_by_component"]["ram"].startswith(ESTIMATED)
    json.dumps(record, allow_nan=False)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []


def test_country_sets_the_grid() -> None:
    with measured(True, "FRA", "train") as meter:
        _work()
    assert meter.record["grid"] == meter.record["country_iso_code"] == "FRA"
    assert 20 < meter.record["g_per_kwh"] < 100


def test_unknown_country_falls_back_to_the_world_average() -> None:
    with measured(True, "XYZ", "train") as meter:
        _work(0.1)
    assert meter.record["country_iso_code"] == "XYZ"
    assert meter.record["grid"] == WORLD_AVERAGE
    assert meter.record["g_per_kwh"] == pytest.approx(475)


def test_country_check_leaves_a_broken_codecarbon_to_the_meter(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_country("KOS")
    assert "no grid for emissions.country_iso_code=KOS" in caplog.text
    caplog.clear()
    monkeypatch.setitem(sys.modules, "codecarbon.input", None)
    check_country("KOS")
    assert not caplog.records


def test_codecarbon_settings_of_the_user_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nco2_signal_api_token=abc\nsave_to_api=true\nforce_carbon_intensity_g_co2e_kwh=1\n"
        "output_dir=/nowhere\noutput_methods=api,csv\nemissions_endpoint=http://localhost:1\ncountry_iso_code=SWE\n"
    )
    with measured(True, "FRA", "train") as meter:
        _work()
        meter.snapshot()
    assert meter.record["grid"] == "FRA"
    assert 20 < meter.record["g_per_kwh"] < 100
    assert [path.name for path in tmp_path.iterdir()] == [".codecarbon.config"]


def test_energy_grows_from_snapshot_to_snapshot() -> None:
    with measured(True, None, "train") as meter:
        _work(0.2)
        first = meter.snapshot()
        _work(0.2)
        second = meter.snapshot()
    assert 0 < first["energy_kwh"] < second["energy_kwh"] <= meter.record["energy_kwh"]


def test_snapshot_is_not_taken_for_the_whole_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from codecarbon.emissions_tracker import BaseEmissionsTracker

    monkeypatch.setattr(BaseEmissionsTracker, "stop", lambda tracker: None)
    with measured(True, None, "train") as meter:
        _work(0.1)
        assert meter.snapshot()["energy_kwh"] > 0
    assert meter.record["error"] == "RuntimeError: codecarbon gave no figures"


@pytest.mark.parametrize(
    ("cpu", "gpu", "expected"),
    [
        (MEASURED, MEASURED, MEASURED),
        (MEASURED, None, MEASURED),
        (ESTIMATED, MEASURED, PARTLY),
        (ESTIMATED, None, ESTIMATED),
        (None, None, ESTIMATED),
    ],
)
def test_energy_counts_as_measured_if_that_of_every_processor_is(
    cpu: str | None, gpu: str | None, expected: str
) -> None:
    known = {name: method for name, method in (("cpu", cpu), ("gpu", gpu)) if method is not None}
    assert _overall({**known, "ram": ESTIMATED}) == expected


def test_codecarbon_is_not_imported_if_disabled() -> None:
    code = (
        "import sys; from pipeline.telemetry.emissions import measured\n"
        "with measured(False, None, 'x') as meter: assert meter.snapshot() == {'enabled': False}\n"
        "assert meter.record == {'enabled': False}; assert 'codecarbon' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    "method", ["__init__", "_ensure_hardware_ready", "_prepare_emissions_data"], ids=["construction", "start", "stop"]
)
def test_failure_of_codecarbon_is_reported_and_stops_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from codecarbon.emissions_tracker import BaseEmissionsTracker

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError("no sensor here")

    monkeypatch.setattr(BaseEmissionsTracker, method, fail)
    done = False
    with measured(True, None, "mine") as meter:
        _work(0.1)
        done = True
    assert done
    assert meter.record["error"] == "OSError: no sensor here"
    assert "energy_kwh" not in meter.record
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "energy of mine is not measured" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


def test_exception_in_the_block_propagates_and_leaves_a_record() -> None:
    with pytest.raises(KeyError), measured(True, None, "train") as meter:
        _work(0.1)
        raise KeyError("x")
    assert meter.record["energy_kwh"] > 0


@pytest.mark.parametrize(
    ("counters", "method"),
    [([True, True], "energy counter"), ([True, False], "power, sampled"), ([None], "energy counter")],
    ids=["all", "some", "unknown"],
)
def test_gpu_method_is_energy_counter_only_if_every_gpu_has_one(counters: list[bool | None], method: str) -> None:
    """By the attribute codecarbon keeps; a version without it has counters only."""

    class GPU:
        devices = SimpleNamespace(
            devices=[SimpleNamespace(**({} if has is None else {"_has_counter": has})) for has in counters]
        )

    assert _methods([GPU()]) == {"gpu": f"{MEASURED} (driver's {method})"}
