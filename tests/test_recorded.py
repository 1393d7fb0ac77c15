"""A recorded configuration comes back as it was, or is refused with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import composed_config
import pytest
import yaml

from pipeline.config import recorded
from pipeline.core import artifacts
from pipeline.core.credentials import masked
from pipeline.core.errors import ArtifactError, ConfigError
from pipeline.core.fingerprint import fingerprint, plain


@pytest.mark.parametrize("experiment", ["smoke", "quickstart", "gooaq_bert_tiny", "gooaq_modernbert_large"])
def test_every_experiment_survives_yaml_and_a_manifest(experiment: str, tmp_path: Path) -> None:
    config = composed_config.composed(f"experiment={experiment}", "training.adam_epsilon=1e-8")
    assert recorded.from_plain(yaml.safe_load(recorded.as_yaml(plain(config))), "here") == config
    with artifacts.publish(tmp_path / "model", {"artifact": "train", "provenance": {"config": plain(config)}}):
        pass
    for path in (tmp_path / "model", tmp_path / "model" / "manifest.json"):
        loaded, manifest = recorded.of_manifest(path)
        assert loaded == config
        assert fingerprint(loaded) == fingerprint(config)
        assert manifest["artifact"] == "train"


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("training", "batch_size", "16", "training.batch_size must be of type int"),
        ("training", "batch_size", True, "training.batch_size must be of type int"),
        ("training", "precision", "fp8", "training.precision must be one of auto, bf16, fp32"),
        ("training", "eval_sets", "dev", "training.eval_sets must be a list"),
        ("training", "new_key", 1, "training.new_key must be a key of this version"),
        ("tracking", "entity", "***", "tracking.entity must be known"),
        ("data", "source", None, "data.source must be one of"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_key(section: str, key: str, value: Any, named: str) -> None:
    values = plain(composed_config.composed("experiment=smoke"))
    values[section][key] = value
    with pytest.raises(ArtifactError, match=named):
        recorded.from_plain(values, "here")


def test_what_was_masked_is_let_be_where_nobody_reads_it() -> None:
    values = plain(composed_config.composed("experiment=smoke"))
    values["evaluation"]["rivals"], values["tracking"]["entity"] = ["***/model"], "***"
    with pytest.raises(ArtifactError, match=r"evaluation\.rivals must be known, got a value that was masked"):
        recorded.from_plain(values, "here")
    assert recorded.from_plain(values, "here", masked_too=True).tracking.entity == "***"


def test_a_copy_of_a_configuration_says_what_was_recorded(tmp_path: Path) -> None:
    config = composed_config.composed("experiment=smoke", "data.path=hf_abcdefgh/pairs.jsonl")
    values, copy = masked(plain(config)), tmp_path / "config.yaml"
    assert values["data"]["path"] == "***/pairs.jsonl"
    for written in (values, plain(config)):
        copy.write_bytes(recorded.as_yaml(written))
        assert recorded.is_copy(copy, values)
    for text in ("", "{", "name: smoke\n", recorded.as_yaml({**values, "seed": 13}).decode()):
        copy.write_text(text)
        assert not recorded.is_copy(copy, values)
    copy.unlink()
    assert not recorded.is_copy(copy, values)


def test_rules_are_checked_again_and_missing_keys_named() -> None:
    values = plain(composed_config.composed("experiment=smoke"))
    del values["model"]["path"]
    with pytest.raises(ArtifactError, match=r"model\.path must be given"):
        recorded.from_plain(values, "here")
    values["model"]["path"], values["model"]["max_length"] = "x", 2
    with pytest.raises(ConfigError, match=r"model\.max_length must be at least 8"):
        recorded.from_plain(values, "here")


def test_manifests_without_a_configuration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="must name a manifest"):
        recorded.of_manifest(tmp_path / "absent")
    with artifacts.publish(tmp_path / "c", {"artifact": "checkpoint"}):
        pass
    with pytest.raises(ArtifactError, match=r"a manifest of checkpoint"):
        recorded.of_manifest(tmp_path / "c")


def test_the_home_folder_of_older_records_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    values = plain(composed_config.composed("experiment=smoke"))
    values["model"]["path"] = "~/model"
    values["evaluation"]["rivals"] = ["~/rival", "owner/name"]
    loaded = recorded.from_plain(values, "here")
    assert loaded.model.path == "/home/someone/model"
    assert loaded.evaluation.rivals == ["/home/someone/rival", "owner/name"]
