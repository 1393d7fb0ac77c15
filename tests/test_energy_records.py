"""Energy records of stages and of pieces of a stage: what their sum says and what it lacks."""

from __future__ import annotations

import pytest

from pipeline.telemetry.energy_records import ESTIMATED, MEASURED, PARTLY, add


def _record(energy: float, g_per_kwh: float = 100.0, method: str = ESTIMATED, grid: str = "FRA") -> dict[str, object]:
    return {
        "energy_kwh": energy,
        "emissions_kg": energy * g_per_kwh / 1000,
        "duration_s": 10.0,
        "g_per_kwh": g_per_kwh,
        "cpu_energy_kwh": energy,
        "gpu_energy_kwh": 0.0,
        "ram_energy_kwh": 0.0,
        "method": method,
        "method_by_component": {"cpu": method},
        "country_iso_code": grid,
        "grid": grid,
        "cpu_model": "CPU",
        "gpu_model": None,
        "ram_gib": 8.0,
        "codecarbon_version": "3",
    }


def test_stages_add_up() -> None:
    total = add([_record(1.0), _record(3.0)])
    assert total["energy_kwh"] == 4.0
    assert total["emissions_kg"] == pytest.approx(0.4)
    assert total["duration_s"] == 20.0
    assert total["g_per_kwh"] == pytest.approx(100)
    assert total["method"] == ESTIMATED
    assert total["grid"] == "FRA"
    assert total["pieces_without_figures"] == 0


def test_a_sum_says_what_it_lacks_and_where_its_parts_differ() -> None:
    total = add([_record(1.0), {"error": "OSError: x", "duration_s": 1.0}, _record(1.0, 300.0, MEASURED, "DEU")])
    assert total["pieces_without_figures"] == 1
    assert total["method"] == PARTLY
    assert total["grid"] == "FRA, DEU"
    assert total["g_per_kwh"] == pytest.approx(200)
    assert add([total, {"enabled": False}])["pieces_without_figures"] == 2
    assert add([{"enabled": False}]) == {"enabled": False}
    assert add([{"enabled": False}, {"error": "x"}]) == {"error": "x"}
    assert add([]) == {"enabled": False}
