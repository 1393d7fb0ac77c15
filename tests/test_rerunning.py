"""Reruns from a manifest: the same names and bits, from the configuration that was recorded."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from pipeline.commands import rerunning
from pipeline.config.command_arguments import Rerun
from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError
from pipeline.core.fingerprint import plain


def test_rerun_gives_the_same_names_and_bits(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/rerun.py", "manifest=outputs/latest/model"])
    rerunning.rerun(Rerun(manifest=str(finished_run / "model"), outputs_dir=str(tmp_path / "again")))
    again = (tmp_path / "again" / "latest").resolve()
    assert again == tmp_path / "again" / "runs" / finished_run.name
    outputs = (finished_run.parents[1], tmp_path / "again")
    for kind in ("mined", "tokens", f"runs/{finished_run.name}/evaluations"):
        names = [{path.name for path in (folder / kind).glob("[!.]*")} for folder in outputs]
        assert names[0] == names[1] and len(names[0]) == 1
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (finished_run, again)]
    assert weights[0] == weights[1]
    manifests = [atomic.read_json(folder / "model" / "manifest.json") for folder in (finished_run, again)]
    before, now = (manifest["provenance"]["command"] for manifest in manifests)
    assert now == [*before, f"outputs_dir={tmp_path / 'again'}"]


def test_rerun_with_moved_data_names_the_remedies(finished_run: Path, tmp_path: Path) -> None:
    config, _ = rerunning.configuration(Rerun(manifest=str(finished_run / "model"), outputs_dir=str(tmp_path)))
    rerunning._find_inputs(config)
    gone = dataclasses.replace(config.data, path=str(tmp_path / "gone.jsonl"))
    rule = r"^data\.path=.*gone\.jsonl must be where the run read it, got nothing there\."
    with pytest.raises(ArtifactError, match=rule + r" Put it back, or give the run's "):
        rerunning._find_inputs(dataclasses.replace(config, data=gone))


def test_rerun_does_not_refresh_the_hub_again(own_run: Path) -> None:
    folder = own_run / "model"
    manifest = artifacts.manifest_of(folder) or {}
    manifest["provenance"]["config"]["hub"]["refresh"] = True
    atomic.write_json(folder / artifacts.MANIFEST, artifacts.sealed(manifest))
    config, read = rerunning.configuration(Rerun(manifest=str(folder)))
    assert read["provenance"]["config"]["hub"]["refresh"] and not config.hub.refresh


def test_manifest_of_any_stage_gives_the_recorded_configuration(finished_run: Path) -> None:
    stages = set()
    for path in finished_run.parents[1].rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        if "provenance" in manifest:  # neither token tables nor checkpoints name a command of their own
            config, _ = rerunning.configuration(Rerun(manifest=str(path)))
            assert plain(config) == manifest["provenance"]["config"]
            stages.add(manifest["artifact"])
    assert stages == {"mine", "train", "evaluate", "card"}
