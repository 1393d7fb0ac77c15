"""Energy records as plain data: how their figures are known, and how the records of several blocks add up.

Pure: knows nothing of codecarbon, files or stages. `emissions.measured` says what a record holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MEASURED, PARTLY, ESTIMATED = "measured", "partly measured", "estimated"
"""How a record's figures are known: all, some or none of them come from hardware counters."""

_SUMS = ("energy_kwh", "emissions_kg", "duration_s", "cpu_energy_kwh", "gpu_energy_kwh", "ram_energy_kwh")


def _same(records: Sequence[dict[str, Any]], key: str) -> Any:
    """Return the value that all records share; if they differ (a run resumed on another machine), all values joined."""
    values = list(dict.fromkeys(record.get(key) for record in records))
    return values[0] if len(values) == 1 else ", ".join(str(value) for value in values)


def add(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of records of several stages, or of one stage's processes, as a record of the same form.

    Records without figures (disabled or failed) cannot be summed: `pieces_without_figures` counts them, so that a
    partial sum is never mistaken for the whole. If no record has figures, the result is the first failed record, else
    `{"enabled": False}`.
    """
    known = [record for record in records if "energy_kwh" in record]
    if not known:
        return next((dict(record) for record in records if "error" in record), {"enabled": False})
    total: dict[str, Any] = {key: sum(float(record[key]) for record in known) for key in _SUMS}
    total["g_per_kwh"] = 1000 * total["emissions_kg"] / total["energy_kwh"] if total["energy_kwh"] > 0 else None
    methods = [record["method"] for record in known]
    total["method"] = methods[0] if len(set(methods)) == 1 else PARTLY
    total["method_by_component"] = {
        name: _same([record["method_by_component"] for record in known], name)
        for name in dict.fromkeys(name for record in known for name in record["method_by_component"])
    }
    for key in ("country_iso_code", "grid", "cpu_model", "gpu_model", "ram_gib", "codecarbon_version"):
        total[key] = _same(known, key)
    total["pieces_without_figures"] = len(records) - len(known) + sum(r.get("pieces_without_figures", 0) for r in known)
    return total
