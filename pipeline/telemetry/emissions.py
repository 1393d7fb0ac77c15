"""The energy that a block of work uses, by codecarbon's offline tracker. The only module that imports codecarbon.

Nothing here opens a connection or writes a file, and measuring raises nothing: a tracker that fails leaves a record
that says so.
Without a country, codecarbon's offline tracker uses its own world average (475 g CO2eq/kWh, the IEA's 2019 figure).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.telemetry.energy_records import ESTIMATED, MEASURED, PARTLY

log = logging.getLogger(__name__)

WORLD_AVERAGE = "world average"
"""The value of `grid` when no country is configured or codecarbon has no figure for it."""

MEASURE_SECONDS = 15
"""Seconds between two readings of the energy counters (codecarbon's default; it samples CPU load every second)."""

# codecarbon's CPU modes that read a counter → the counter's name. Others estimate: `cpu_load` scales a TDP by the load.
_COUNTERS = {"intel_rapl": "RAPL", "intel_power_gadget": "Power Gadget", "windows_emi": "Energy Meter Interface"}


class _Inbox:
    """A codecarbon output handler that keeps the newest totals instead of writing them anywhere."""

    def __init__(self) -> None:
        self.newest: Any = None

    def out(self, total: Any, delta: Any) -> None:
        self.newest = total

    def live_out(self, total: Any, delta: Any) -> None:
        self.newest = total

    def task_out(self, data: Any, experiment_name: str | None) -> None:
        """Do nothing: no tasks are tracked."""

    def exit(self) -> None:
        """Do nothing: there is nothing to close."""


class _Silence(logging.Filter):
    """Keeps codecarbon's logger quiet, and keeps the first exception that codecarbon swallows and only logs."""

    def __init__(self) -> None:
        super().__init__()
        self.exception: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if self.exception is None and record.exc_info:
            self.exception = record.exc_info[1]
        return False


def _methods(hardware: Sequence[Any]) -> dict[str, str]:
    """Return component → how codecarbon knows its energy, according to the objects that codecarbon set up."""
    found = {}
    for part in hardware:
        kind = type(part).__name__
        if kind == "CPU":
            mode = str(getattr(part, "_mode", "unknown"))
            counter = _COUNTERS.get(mode)
            found["cpu"] = f"{MEASURED} ({counter})" if counter else f"{ESTIMATED} (TDP constant, {mode})"
        elif kind == "GPU":
            counters = [getattr(gpu, "_has_counter", True) for gpu in part.devices.devices]
            found["gpu"] = f"{MEASURED} (driver's {'energy counter' if all(counters) else 'power, sampled'})"
        elif kind == "RAM":
            found["ram"] = f"{ESTIMATED} (constant power per memory slot)"
        else:
            found[kind.lower()] = f"{MEASURED} ({kind})"
    return found


def _overall(by_component: dict[str, str]) -> str:
    """Return one word for all processors; memory does not count, as it is always estimated."""
    processors = [text.startswith(MEASURED) for name, text in by_component.items() if name != "ram"]
    if processors and all(processors):
        return MEASURED
    return PARTLY if any(processors) else ESTIMATED


class Meter:
    """Measures the energy used since a block began. `record` is complete once the block has ended."""

    def __init__(self, country_iso_code: str | None, name: str) -> None:
        self.record: dict[str, Any] = {"enabled": False}
        self._country = country_iso_code
        self._name = name
        self._tracker: Any = None
        self._inbox = _Inbox()
        self._silence = _Silence()
        self._grid = WORLD_AVERAGE
        self._began = time.monotonic()

    def _start(self) -> None:
        logger = logging.getLogger("codecarbon")
        logger.addFilter(self._silence)
        try:
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.input import DataSource

            if self._country in DataSource().get_global_energy_mix_data():
                self._grid = str(self._country)
            # Every argument is set with which a user's own codecarbon settings could open a connection, write a file
            # or change the grid. An empty token means none; with None, codecarbon would look for one.
            tracker = OfflineEmissionsTracker(
                project_name=self._name,
                country_iso_code=self._country,
                country_2letter_iso_code=None,
                region=None,
                cloud_provider=None,
                cloud_region=None,
                force_carbon_intensity_g_co2e_kwh=None,
                electricitymaps_api_token="",
                emissions_endpoint=None,
                output_methods=[],
                output_handlers=[self._inbox],
                output_dir=".",
                api_call_interval=-1,
                measure_power_secs=MEASURE_SECONDS,
                allow_multiple_runs=True,
                tracking_mode="machine",
                log_level="warning",
            )
            tracker.start()
            # codecarbon swallows its own exceptions: only its state tells whether it is running.
            if getattr(tracker, "_start_time", None) is None:
                raise RuntimeError("codecarbon did not start")
            self._tracker = tracker
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        cause = self._silence.exception or error
        self.record = {"error": f"{type(cause).__name__}: {cause}", "duration_s": time.monotonic() - self._began}
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with contextlib.suppress(Exception):
                tracker.stop()
        log.warning("energy of %s is not measured: codecarbon failed (%s); the run continues", self._name, cause)

    def _read(self) -> dict[str, Any]:
        data = self._inbox.newest
        if data is None:
            raise RuntimeError("codecarbon gave no figures")
        energy, emissions = float(data.energy_consumed), float(data.emissions)
        methods = _methods(getattr(self._tracker, "_hardware", ()))
        return {
            "energy_kwh": energy,
            "emissions_kg": emissions,
            "duration_s": float(data.duration),
            "g_per_kwh": 1000 * emissions / energy if energy > 0 else None,
            "cpu_energy_kwh": float(data.cpu_energy),
            "gpu_energy_kwh": float(data.gpu_energy),
            "ram_energy_kwh": float(data.ram_energy),
            "method": _overall(methods),
            "method_by_component": methods,
            "country_iso_code": self._country,
            "grid": self._grid,
            "cpu_model": data.cpu_model or None,
            "gpu_model": data.gpu_model or None,
            "ram_gib": float(data.ram_total_size) if data.ram_total_size else None,
            "codecarbon_version": data.codecarbon_version,
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the record so far, for a checkpoint, while the block runs on. Later snapshots include earlier ones."""
        if self._tracker is None:
            return dict(self.record)
        self._silence.exception = None
        try:
            self._tracker.flush()
            return self._read()
        except Exception as error:
            self._fail(error)
            return dict(self.record)

    def _stop(self) -> None:
        self._silence.exception = None
        try:
            if self._tracker is not None:
                self._inbox.newest = None
                self._tracker.stop()
                self.record = self._read()
        except Exception as error:
            self._fail(error)
        finally:
            self._tracker = None
            logging.getLogger("codecarbon").removeFilter(self._silence)


def check_country(country_iso_code: str | None) -> None:
    """Warn of a code without a grid in codecarbon's data: its emissions are those of the world average."""
    if country_iso_code is None:
        return
    try:
        from codecarbon.input import DataSource

        known = country_iso_code in DataSource().get_global_energy_mix_data()
    except Exception:  # the meter, which fails too, records why
        return
    if not known:
        log.warning(
            "codecarbon has no grid for emissions.country_iso_code=%s: using the world average. The code of a country "
            "is ISO 3166 alpha-3, such as FRA", country_iso_code,
        )  # fmt: skip


@contextlib.contextmanager
def measured(enabled: bool, country_iso_code: str | None, name: str) -> Iterator[Meter]:
    """Measure the energy of a block.

    The whole machine is measured, other processes included: this is codecarbon's default and what the counters report.

    Args:
        enabled: False yields a meter whose record is `{"enabled": False}` and imports nothing.
        country_iso_code: ISO 3166 alpha-3 code of the grid; None uses the world average.
        name: what is measured, for messages.

    Yields:
        The meter. After the block its `record` holds energy in kWh (total and by component), emissions in kg CO2eq,
        `duration_s`, `g_per_kwh`, how the figures are known (`method`, `method_by_component`) and the `grid`; or
        `{"error": …, "duration_s": …}` if codecarbon failed. Exceptions of the block propagate.
    """
    meter = Meter(country_iso_code, name)
    if not enabled:
        yield meter
        return
    meter._start()
    try:
        yield meter
    finally:
        meter._stop()
