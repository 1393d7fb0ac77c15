"""Arguments that commands have beside the configuration. Light: a mistyped one is answered without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError, must

FIRST = "first"
"""The one value of `stage`."""


@dataclass(kw_only=True)
class Reproduction:
    """The arguments of `scripts/reproduce.py` beside the configuration's."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path."""
    stage: str | None = None
    """`first`: mine, and check rows and first-stage figures without training."""
    weights: str | None = None
    """Published weights to score with this project's evaluator: a hub id or a folder."""
    weights_revision: str | None = None
    """Their branch, tag or commit."""
    facts: str | None = None
    """Another file of published figures, in the form of pipeline/reporting/published.json."""

    def __post_init__(self) -> None:
        given = [name for name in ("run", "stage", "weights") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                must("one of run, stage and weights", "be given", " and ".join(given) or "none",
                     'Use make reproduce ARGS="run=<folder>", or STAGE=first, or MODEL=<hub id or folder>.')
            )  # fmt: skip
        if self.stage not in (None, FIRST):
            raise ConfigError(must("stage", f"be {FIRST}", self.stage, "Pass stage=first (make: STAGE=first)."))


@dataclass(kw_only=True)
class Publication:
    """The arguments of `scripts/push.py`."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path; None takes the newest."""
    repo: str
    """The model's name on the hub: owner/name."""
    private: bool = False
    """Whether a repository made for it is private."""
    outputs_dir: str = "outputs"
    """Where runs lie."""


@dataclass(kw_only=True)
class Verification:
    """The arguments of `scripts/verify.py`."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path; None takes the newest."""
    outputs_dir: str = "outputs"
    """Where runs lie."""


@dataclass(kw_only=True)
class Rerun:
    """The arguments of `scripts/rerun.py`."""

    manifest: str
    """A manifest.json of a stage, or its folder: outputs/runs/<run>/model."""
    outputs_dir: str | None = None
    """Where to write; None takes the folder the manifest records."""
