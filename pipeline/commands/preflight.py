"""Check in a minute what could stop a run after hours: hub, device, disk, memory, expected time.

Trains and mines nothing; downloads only configurations of a few kilobytes. Each finding is one line, with its remedy;
`estimates` computes how much a run takes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from pipeline.commands import estimates
from pipeline.commands.estimates import Size
from pipeline.config.data import Retriever, Source
from pipeline.config.learning import Precision
from pipeline.config.runtime import Device
from pipeline.config.schema import Config
from pipeline.core import processor
from pipeline.core.console import in_bytes, number_of
from pipeline.core.errors import HubError, ResourceError, must, one_line
from pipeline.core.progress import duration
from pipeline.engine import machine
from pipeline.hub import location
from pipeline.hub.cache import Kind
from pipeline.hub.download import retrying
from pipeline.hub.lock_file import LOCK

log = logging.getLogger(__name__)

OK, WARN, FAIL = "OK", "WARN", "FAIL"

LONG_HOURS = 24.0
"""Expected hours above which a run's time is a warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was checked, its status, and what to do about it."""

    status: str
    what: str
    said: str

    def __str__(self) -> str:
        return f"{self.status:5} {self.what:12} {self.said}"


def check(config: Config) -> list[Finding]:
    """Return every finding, in the order a run would meet them."""
    findings, needed, size = _local(config), 0, None
    online = _needs_hub(config)
    if online:
        findings.append(_login())
    for what, path, revision, kind, key in _artefacts(config):
        finding, missing = _artefact(config, what, path, revision, kind, key)
        findings.append(finding)
        needed += missing
    try:
        size = estimates.size_of(config)
    except (HubError, OSError, ValueError, KeyError, TypeError) as error:
        findings.append(Finding(WARN, "model size", f"unknown ({one_line(error)}): memory and time are not checked"))
    device, finding = _device(config)
    findings += [finding, _precision(config, device)]
    findings += _disk(config, needed, size)
    if size is not None:
        findings.append(_memory(size, device))
        if findings[-1].status != FAIL:  # measuring the time takes memory
            findings.append(_expected_time(config, size, device))
    return findings


def report(config: Config) -> None:
    """Log every finding as a line.

    Raises:
        ResourceError: when a check fails, after all lines are logged.
    """
    findings = check(config)
    log.info("%s", "\n".join(map(str, findings)))
    failed = [finding.what for finding in findings if finding.status == FAIL]
    if failed:
        raise ResourceError(
            must("every check", "pass before a run", ", ".join(failed), "Their lines above say what to do.")
        )


def _artefacts(config: Config) -> Iterator[tuple[str, str, str | None, Kind, str]]:
    """Yield (name, path, revision, kind, configuration key) of everything a run reads except the files of `_local`."""
    yield "model", config.model.path, config.model.revision, "model", "model.path"
    if config.data.source is Source.hub:
        yield "data", str(config.data.path), config.data.revision, "dataset", "data.path"
    if config.mining.retriever is Retriever.embedding:
        yield "retriever", str(config.mining.path), config.mining.revision, "model", "mining.path"
    if config.mining.retriever is Retriever.run:
        yield "run", str(config.mining.path), None, "dataset", "mining.path"
    evaluation = config.evaluation
    if evaluation.nano_beir:
        key = "evaluation.nano_beir_path"
        yield "NanoBEIR", evaluation.nano_beir_path, evaluation.nano_beir_revision, "dataset", key
    for path in evaluation.collections:
        yield "collection", path, None, "dataset", "evaluation.collections"
    for path in evaluation.rivals:
        yield "rival", path, None, "model", "evaluation.rivals"


def _local(config: Config) -> list[Finding]:
    """Check that the configured local data files exist."""
    data = config.data
    paths = {"data.path": data.path} if data.source is Source.local else {}
    paths |= {"data.dev_path": data.dev_path, "data.corpus_path": data.corpus_path}
    return [
        Finding(OK, "data", f"{key}={path}")
        if Path(path).exists()
        else Finding(FAIL, "data", must(key, "name a file or folder that exists", repr(path), "Check the path."))
        for key, path in paths.items()
        if path is not None
    ]


def _needs_hub(config: Config) -> bool:
    paths = [path for _, path, _, _, _ in _artefacts(config)]
    return any(not path.startswith(location.PACKAGE) and not Path(path).exists() for path in paths)


def _login() -> Finding:
    if constants.is_offline_mode():
        return Finding(WARN, "hub", "HF_HUB_OFFLINE=1: only what is cached can be used. Unset it to download")
    if get_token() is None:
        return Finding(OK, "login", "none, and public models and data need none; for others run `hf auth login`")
    try:
        name = retrying("login", lambda: HfApi().whoami())["name"]
    except HfHubHTTPError as error:
        status = error.response.status_code
        return Finding(
            FAIL, "login", f"the hub refused the token (HTTP {status}). Run `hf auth login`, or unset HF_TOKEN"
        )
    except Exception as error:  # whatever the transport raises: the artefacts' own lines will say more
        return Finding(WARN, "login", f"not checked ({type(error).__name__})")
    return Finding(OK, "login", f"as {name}")


def _artefact(config: Config, what: str, path: str, revision: str | None, kind: Kind, key: str) -> tuple[Finding, int]:
    """Return the finding on an artefact, and the bytes still to download."""
    lock = Path(config.outputs_dir).resolve() / LOCK
    try:
        found = location.preview(path, revision, kind=kind, lock=lock, key=key, refresh=config.hub.refresh)
        if found is None:
            located = location.locate(path, revision, kind=kind, lock=lock, key=key)
            return Finding(OK, what, located.description), 0
    except HubError as error:
        return Finding(FAIL, what, one_line(error)), 0
    todo = f"{in_bytes(found.missing_bytes)} to download" if found.missing_bytes else "all cached"
    at = f"{revision or 'main'} is commit {found.commit[:12]}"
    return Finding(OK, what, f"{path}: {at}, {in_bytes(found.total_bytes)}, {todo}"), found.missing_bytes


def _device(config: Config) -> tuple[torch.device, Finding]:
    try:
        device = machine.resolve_device(config.runtime)
    except ResourceError as error:
        return torch.device("cpu"), Finding(FAIL, "device", one_line(error))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return device, Finding(OK, "device", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    chosen = config.runtime.device is not Device.cpu
    note = "; torch sees no GPU. If there is one, install torch's CUDA build" if chosen else ""
    large = config.training.batch_size >= 64 and config.data.source is Source.hub
    return device, Finding(
        WARN if large and chosen else OK, "device", f"CPU, {number_of(torch.get_num_threads(), 'thread')}{note}"
    )


def _precision(config: Config, device: torch.device) -> Finding:
    """Check the precisions of training and of evaluation, which have a key each."""
    asked = {"training.precision": config.training.precision, "evaluation.precision": config.evaluation.precision}
    found = {key: machine.resolve_precision(precision, device) for key, precision in asked.items()}
    fast, _ = machine.resolve_precision(Precision.auto, device)
    slow = [key for key, (precision, _) in found.items() if precision is Precision.bf16 and fast is not Precision.bf16]
    if slow:
        on_gpu = "GPU has no bf16 units (compute capability below 8.0)"
        where = on_gpu if device.type == "cuda" else f"CPU has {processor.NO_BF16_UNIT}"
        remedy = " ".join(f"{key}=fp32" for key in slow)
        return Finding(WARN, "precision", f"bf16, but this {where}: slow. Pass {remedy}, which changes the recipe")
    (training, reason), (evaluation, why) = found.values()
    apart = "" if evaluation is training else f"; evaluation {evaluation.name} ({why})"
    return Finding(OK, "precision", f"{training.name} ({reason}){apart}")


def _nearest(folder: Path) -> Path:
    """Return the folder or its nearest existing parent, whose disk can be queried."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _room(what: str, said: str, folder: Path, needed: int, otherwise: str) -> Finding:
    free = shutil.disk_usage(_nearest(folder)).free
    said = f"{said}, {in_bytes(free)} free"
    return Finding(OK, what, said) if free > needed else Finding(FAIL, what, f"{said}. Free some, or {otherwise}")


def _disk(config: Config, downloads: int, size: Size | None) -> list[Finding]:
    """Check the disk space for downloads (cache) and for what the run writes (outputs); a shared disk needs both."""
    found = []
    cache, outputs = Path(constants.HF_HUB_CACHE).absolute(), Path(config.outputs_dir).resolve()
    if downloads:
        said = f"{in_bytes(downloads)} to download"
        found.append(_room("cache disk", said, cache, downloads, "set HF_HOME to a larger disk"))
    if size is not None:
        needed = estimates.disk_bytes(config, size)
        said = f"{in_bytes(needed)} for checkpoints, model and data"
        if downloads and _device_number(cache) == _device_number(outputs):
            needed += downloads
            said += f" and {in_bytes(downloads)} to download to the same disk"
        found.append(_room("outputs disk", said, outputs, needed, "pass outputs_dir=<folder on a larger disk>"))
    return found


def _device_number(folder: Path) -> int:
    return _nearest(folder).stat().st_dev


def _memory(size: Size, device: torch.device) -> Finding:
    needed = estimates.memory_bytes(size)
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
        remedy = "Close other programs that use the GPU" if total > needed else "Use a smaller model, or a larger GPU"
    else:
        available = psutil.virtual_memory().available
        remedy = "Close other programs, or use a smaller model"
    said = f"at least {needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB available"
    return Finding(OK, "memory", said) if available > needed else Finding(FAIL, "memory", f"{said}. {remedy}")


def _expected_time(config: Config, size: Size, device: torch.device) -> Finding:
    hours, (pairs, _) = estimates.hours(config, size, device), estimates.pairs_of(config)
    expected = duration(3600 * hours)
    said = f"about {expected} of training and scoring for {pairs:,} pairs (within a factor of two; without mining)"
    if config.data.source is Source.local and config.data.rows is None and config.data.limit is None:
        said += "; less if the data, which is not read here, yields fewer"
    if hours > LONG_HOURS:
        return Finding(WARN, "time", f"{said}. Try size=tiny first, or use a GPU (runtime=rtx3090)")
    return Finding(OK, "time", said)
