"""The comparison that a run's folder keeps, `reproduction.json`, and the run's card with it.

It is shown as long as it is unaltered and of the figures that the card shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError
from pipeline.reporting.comparison import as_section

Json = dict[str, Any]

FILE = "reproduction.json"
"""Name of the comparison's file in its run's folder."""

LIMITATIONS = "## Limitations\n"
"""The heading in the card before which the comparison is inserted."""


def keep(run: Path, comparison: Json) -> Path:
    """Write a run's comparison to its folder, sealed and with the evaluations that it covers; return the file."""
    atomic.write_json(run / FILE, artifacts.sealed({**comparison, "evaluations": _evaluations(run)}))
    return run / FILE


def _evaluations(run: Path) -> Any:
    """Return the evaluations that a run's card shows."""
    return (artifacts.manifest_of(run / "card") or {}).get("key", {}).get("evaluations")


def kept(run: Path) -> Json | None:
    """Return a run's comparison if it is as `keep` wrote it and covers the card's evaluations, else None."""
    try:
        found: Json = atomic.read_json(run / FILE)
    except ArtifactError:
        return None
    return found if artifacts.is_sealed(found) and found.get("evaluations") == _evaluations(run) else None


def card_of(run: Path) -> str:
    """Return a finished run's card, with the run's comparison, if there is one, inserted before the limitations.

    A comparison that was altered or made from earlier figures is left out.
    """
    card = (run / "card" / "README.md").read_text(encoding="utf-8")
    if (comparison := kept(run)) is None:
        return card
    before, heading, after = card.partition(LIMITATIONS)
    return f"{before}{as_section(comparison)}\n{heading}{after}"
