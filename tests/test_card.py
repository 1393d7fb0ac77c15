"""The CARD stage: what changes the card alone, and copies that come back."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_run import run_tiny, snapshot


def test_card_only_keys_rebuild_only_the_card(own_run: Path, own_outputs: Path) -> None:
    before, card = snapshot(own_outputs), (own_run / "README.md").read_text()
    keys = ["name=another", "model.license=mit", "model.language=de", "model.title=Other"]
    assert run_tiny(own_outputs, *keys) == own_run
    after, changed = snapshot(own_outputs), (own_run / "README.md").read_text()
    folder = own_run.relative_to(own_outputs)
    files = tuple(str(folder / file) for file in ("card", "README.md", "summary.json"))
    assert all(name.startswith(files) for name in after if after[name] != before.get(name))
    assert "\nlicense: mit\n" in changed and "\n- de\n" in changed
    assert json.loads((own_run / "summary.json").read_text())["name"] == "another"
    assert run_tiny(own_outputs) == own_run and (own_run / "README.md").read_text() == card


def test_deleted_copies_of_the_card_come_back(own_run: Path, own_outputs: Path) -> None:
    texts = {name: (own_run / name).read_bytes() for name in ("README.md", "summary.json")}
    before = snapshot(own_outputs)
    for name in texts:
        (own_run / name).unlink()
        run_tiny(own_outputs)
        assert (own_run / name).read_bytes() == texts[name]
    after = snapshot(own_outputs)
    assert {name for name in after if after[name] != before.get(name)} == {
        str((own_run / name).relative_to(own_outputs)) for name in texts
    }
