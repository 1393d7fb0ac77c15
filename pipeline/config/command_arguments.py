"""Arguments of commands, besides the configuration. A mistyped argument is refused without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError, must

FIRST = "first"
"""The only value of `stage`."""


@dataclass(kw_only=True)
class Prediction:
    """The arguments of `scripts/predict.py`."""

    q: str
    """The question."""
    p: str = ""
    """One passage, taken literally: `null` is the word itself."""
    file: str | None = None
    """Many passages instead of p: JSONL with the key `text`, one passage per line."""
    run: str | None = None
    """Folder name below outputs/runs or a path; null takes the newest run."""
    outputs_dir: str = "outputs"
    """Output folder, with the runs below runs/."""

    def __post_init__(self) -> None:
        if not self.q.strip():
            raise ConfigError(must("q", "hold a question", repr(self.q), "Pass q='…' (make predict Q='…' P='…')."))
        if (not self.p) == (self.file is None):
            got = "both" if self.p else "neither"
            remedy = "Pass p='…' (make predict Q='…' P='…') or file=<JSONL>."
            raise ConfigError(must("p or file", "be given, but not both", got, remedy))


@dataclass(kw_only=True)
class Reproduction:
    """The arguments of `scripts/reproduce.py` besides the configuration's keys."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path."""
    stage: str | None = None
    """`first`: mine, and check rows and first-stage figures without training."""
    weights: str | None = None
    """Published weights to score with this project's evaluator: a hub id or a folder."""
    weights_revision: str | None = None
    """Branch, tag or commit of the published weights."""
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
            raise ConfigError(must("stage", f"be {FIRST}", repr(self.stage), "Pass stage=first (make: STAGE=first)."))


@dataclass(kw_only=True)
class Publication:
    """The arguments of `scripts/push.py`."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path; null takes the newest."""
    repo: str
    """Name of the model on the hub: owner/name."""
    private: bool = False
    """Whether a newly created repository is private."""
    outputs_dir: str = "outputs"
    """Output folder, with the runs below runs/."""


@dataclass(kw_only=True)
class Verification:
    """The arguments of `scripts/verify.py`."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path; null takes the newest."""
    outputs_dir: str = "outputs"
    """Output folder, with the runs below runs/."""


@dataclass(kw_only=True)
class Rerun:
    """The arguments of `scripts/rerun.py`."""

    manifest: str
    """A manifest.json of a stage, or its folder: outputs/runs/<run>/model."""
    outputs_dir: str | None = None
    """Folder to write to; null takes the one that the manifest records."""


@dataclass(kw_only=True)
class Faults:
    """The arguments of `scripts/faults.py`."""

    kills: int = 20
    """Processes to kill at random moments, over all stages; 0 for none."""
    chain: int = 5
    """Most kills of one run before it is left to finish."""
    files: int = 40
    """Files to damage, each in a separate finished run; 0 for none."""
    seed: int = 1
    """Seed of the kills' moments and kinds and of the damage; which step a kill hits depends on the machine."""
    experiment: str = "smoke"
    """The experiment to run."""
    cut: bool | None = None
    """Run every stage on fewer rows and steps: smoke takes seconds, quickstart two minutes; null cuts only smoke."""
    outputs_dir: str = "outputs"
    """Output folder; the record goes below faults/, where the broken runs also are until the command ends."""

    def __post_init__(self) -> None:
        for key, least in (("kills", 0), ("chain", 1), ("files", 0)):
            if getattr(self, key) < least:
                raise ConfigError(must(key, f"be at least {least}", getattr(self, key), f"Pass {key}=5."))


@dataclass(kw_only=True)
class Profile:
    """The arguments of `scripts/profiling.py` besides the configuration's keys."""

    steps: int = 5
    """Training steps to profile, after two warm-up steps."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(must("steps", "be at least 1", self.steps, "Pass steps=5."))
