"""Compose a configuration from overrides as a command does."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pipeline.config.schema import Config, parse, register

CONF = Path(__file__).resolve().parents[1] / "conf"


def composed(*overrides: str) -> Config:
    """Return `conf/config.yaml` under these overrides, with every rule checked."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return parse(compose("config", overrides=list(overrides)))
