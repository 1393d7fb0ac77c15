"""Repeat exactly the run of a manifest, and report beforehand which inputs have changed since."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.commands.run_folder import mined_of
from pipeline.config import recorded
from pipeline.config.command_arguments import Rerun
from pipeline.config.data import Retriever, Source
from pipeline.config.paths import KEYS
from pipeline.config.schema import Config
from pipeline.core import artifacts
from pipeline.core.console import shown
from pipeline.core.errors import ArtifactError, must
from pipeline.core.fingerprint import fingerprint
from pipeline.hub.location import is_fixed
from pipeline.hub.lock_file import LOCK
from pipeline.hub.repo_files import looks_local
from pipeline.stages.plan import RunPlan
from pipeline.stages.rivals import rival_names
from pipeline.stages.run import run as run_stages

log = logging.getLogger(__name__)


def configuration(asked: Rerun) -> tuple[Config, dict[str, Any]]:
    """Return the manifest's configuration, with `outputs_dir` replaced if one is given, and the manifest.

    Raises:
        ArtifactError: when there is no such manifest, it was altered, or it records no configuration.
    """
    config, manifest = recorded.of_manifest(Path(asked.manifest))
    # A run with hub.refresh is repeated with the commits it resolved then.
    config = dataclasses.replace(config, hub=dataclasses.replace(config.hub, refresh=False))
    if asked.outputs_dir is not None:
        config = dataclasses.replace(config, outputs_dir=asked.outputs_dir)
    return config, manifest


def rerun(asked: Rerun) -> None:
    """Run the manifest's configuration with the hub commits that the run's manifests record.

    Whatever is already complete in the outputs folder is not made again.

    Raises:
        HubError: when a recorded commit cannot be had.
        ArtifactError: when no manifest records the commits of the data, and today's give others; or as `configuration`.
    """
    config, manifest = configuration(asked)
    model, commits = _commits(Path(asked.manifest), manifest)
    # Copy the lock file for what no manifest records, such as a set that was not evaluated yet.
    recorded = Path(manifest["provenance"]["config"]["outputs_dir"]) / LOCK
    lock = Path(config.outputs_dir) / LOCK
    if recorded.is_file() and not lock.exists():
        lock.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recorded, lock)
    # Record the original command instead of this one, whose `outputs/latest` may mean another run tomorrow.
    elsewhere = [] if asked.outputs_dir is None else [f"outputs_dir={asked.outputs_dir}"]
    sys.argv[:] = [*manifest["provenance"]["command"], *elsewhere]
    run = RunPlan(config, commits)
    _find_inputs(config)
    if unrecorded := _unrecorded(run):
        with tempfile.TemporaryDirectory() as place:
            today = RunPlan(config, commits)
            today.lock = Path(place) / LOCK  # a refusal must leave no record that the next attempt would accept
            if lock.is_file():
                shutil.copyfile(lock, today.lock)
            _refuse_other_data(today, unrecorded, manifest, model)
            hub = {f"data.path={config.data.path}": today.source, f"mining.path={config.mining.path}": today.retriever}
        commits |= {name: of.identity["commit"] for name, of in hub.items() if of is not None and name in unrecorded}
        run = RunPlan(config, commits)
    before = manifest if manifest["artifact"] == "mine" else model
    now = run.mine_key if manifest["artifact"] == "mine" else run.train_key
    if before is not None and (changed := _changed(before["key"], now)):
        log.warning("not the same run: %s differ from the manifest's, so its folder has a different name", changed)
    log.info("runs again   %s, into %s", config.name, shown(run.folder))
    run_stages(config, commits=commits)


def _commits(path: Path, manifest: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return the manifest of the run's model, if there is one, and `<key>=<path>` → commit of all its hub artefacts.

    They are read from the given manifest, the run's mined set and model, and the evaluations that its card shows.
    A model or card beside a copied folder counts only if it is of the same training.
    """
    folder = path.parent if path.name == artifacts.MANIFEST else path
    found, model, is_model = [manifest], None, manifest["artifact"] == "train"
    if manifest["artifact"] != "mine":
        run = folder.resolve().parent if manifest["artifact"] in ("train", "card") else folder.resolve().parent.parent
        trained = manifest["fingerprint"] if is_model else manifest["key"]["train"]
        model = manifest if is_model else artifacts.manifest_of(run / "model")
        if model is not None and model["fingerprint"] != trained:
            model = None
        if model is not None:
            mined = mined_of(run, model)
            card = artifacts.manifest_of(run / "card")
            shown_by = {} if card is None or card["key"]["train"] != trained else card["key"]["evaluations"]
            others = [run / "evaluations" / name for name in shown_by.values()]
            there = [artifacts.manifest_of(of) for of in ([] if mined is None else [mined]) + others]
            found += [model, *(of for of in there if of is not None)]
    return model, {name: commit for of in reversed(found) for name, commit in _of_stage(of).items()}


def _of_stage(manifest: dict[str, Any]) -> dict[str, str]:
    """Return `<key>=<path>` → commit for the hub artefacts that a stage's manifest records."""
    key, config = manifest["key"], manifest["provenance"]["config"]
    data, evaluation = config["data"]["path"], config["evaluation"]
    rivals, nano, source = evaluation["rivals"], evaluation["nano_beir_path"], key.get("source", {})
    identities = {
        f"data.path={data}": key.get("content"),
        f"mining.path={config['mining']['path']}": key.get("retriever"),
        f"model.path={config['model']['path']}": key.get("weights"),
        f"evaluation.nano_beir_path={nano}": source if "sets" in source else key.get("nano_beir"),
        **{
            f"evaluation.rivals={path}": key.get("rivals", {}).get(name)
            for path, name in zip(rivals, rival_names(rivals), strict=True)
        },
        **{
            f"evaluation.collections={path}": source
            for path in evaluation["collections"]
            if path.partition("@")[0] == source.get("hub")
        },
    }
    return {name: identity["commit"] for name, identity in identities.items() if identity and "commit" in identity}


def _unrecorded(run: RunPlan) -> list[str]:
    """Return `<key>=<path>` of the hub artefacts of MINE whose commit no manifest of the run records.

    The lock file is no record: it may have been refreshed since.
    """
    data, mining = run.config.data, run.config.mining
    asked: list[tuple[str, str | None, str | None]] = []
    if data.source is Source.hub:
        asked.append(("data.path", data.path, data.revision))
    if mining.retriever is not Retriever.bm25:
        asked.append(("mining.path", mining.path, mining.revision))
    return [
        f"{key}={path}"
        for key, path, revision in asked
        if path is not None and f"{key}={path}" not in run.commits and not is_fixed(path, revision)
    ]


def _refuse_other_data(
    run: RunPlan, unrecorded: list[str], manifest: Mapping[str, Any], model: Mapping[str, Any] | None
) -> None:
    """Refuse a run whose data on the hub are not those of the manifest's run, or cannot be told to be.

    Raises:
        ArtifactError: naming the keys of the data.
    """
    if model is not None:
        same = model["key"]["mine"] in _mined_by_any_version(run.mine_key)
    else:  # an evaluation or card without its model
        same = manifest["artifact"] == "mine" or manifest["key"]["train"] == fingerprint(run.train_key)
    if not same:
        remedy = "Copy the run's mined/ folder along with runs/: its manifest records them."
        got = "others, and no mined/ folder to tell"
        raise ArtifactError(must(f"the commits of {' and '.join(unrecorded)}", "be those of the run", got, remedy))


def _mined_by_any_version(key: Mapping[str, Any]) -> set[str]:
    """Return the fingerprints that MINE's key has had under this and all earlier versions of mining and search."""
    of = key["retriever"]
    retrievers = [of]
    if of is not None and "search" in of:
        retrievers = [{**of, "search": search} for search in range(1, of["search"] + 1)]
    versions = range(1, key["version"] + 1)
    return {fingerprint({**key, "version": v, "retriever": r}) for v in versions for r in retrievers}


def _find_inputs(config: Config) -> None:
    """Refuse a run whose local files have moved: only the run's own command accepts their new paths.

    Raises:
        ArtifactError: naming the first key whose path does not exist.
    """
    for key in KEYS:
        group, _, name = key.partition(".")
        values = getattr(getattr(config, group), name) if name else None
        for path in values if isinstance(values, list) else [values]:
            if isinstance(path, str) and looks_local(path) and not Path(path).exists():
                remedy = f"Put it back, or give the run's own command {key}=<where it is now>."
                raise ArtifactError(must(f"{key}={path}", "be where the run read it", "nothing there", remedy))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return the dotted names of the parts of a key that differ."""
    found = []
    for name in {**before, **now}:
        a, b = before.get(name), now.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found.append(_changed(a, b, f"{prefix}{name}."))
        elif a != b:
            found.append(prefix + name)
    return ", ".join(part for part in found if part)
