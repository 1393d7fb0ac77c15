"""Sentences for failures of the hub, from a real client in a process of its own: it reads HF_ENDPOINT when imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

DRIVER = """
import sys
from pathlib import Path
import pipeline.hub.download
from pipeline.core.errors import HubError
from pipeline.hub.location import locate
pipeline.hub.download.WAITS_S = ()
for name in sys.argv[2:]:
    try:
        locate(name, None, kind="model", lock=Path(sys.argv[1]), key="model.path")
    except HubError as error:
        print(error)
"""
"""Prints the refusal of each model that cannot be located, after one attempt."""


def refusals(folder: Path, root: Path, *models: str, **environment: str) -> list[str]:
    """Return the refusal of each model, in one line, for a command that runs in an empty folder."""
    given = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", DRIVER, str(folder / "lock.json"), *models]
    done = subprocess.run(command, cwd=folder, env=given | environment, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(models), done.stdout
    return lines


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("no such repository", "or a private one (HTTP 401)"),
        ("no connection", "no connection"),
        ("offline", "modle, not cached"),
    ],
    ids=["no such repository", "no connection", "offline"],
)
def test_name_without_an_owner_is_refused_as_no_folder_either(tmp_path: Path, root: Path, fault: str, got: str) -> None:
    """A name such as `modle` is more likely a misspelt folder than a hub id; `acme/modle` is taken for an id."""
    models = ("modle", "acme/modle")
    hub = LoopbackHub()
    with hub.serving():
        if fault == "no such repository":
            bare, owned = refusals(tmp_path, root, *models, HF_ENDPOINT=hub.url)
    if fault != "no such repository":  # the server is gone
        offline = {"HF_HUB_OFFLINE": "1"} if fault == "offline" else {}
        bare, owned = refusals(tmp_path, root, *models, HF_ENDPOINT=hub.url, **offline)
    assert f"{got}, and no folder of that name here. " in bare
    assert f"{got}. " in owned and "no folder" not in owned
