"""Arguments that commands have beside the configuration. Light: a mistyped one is answered without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError, must

FIRST = "first"
"""The one value of `stage`."""


@dataclass(kw_only=True)
class Prediction:
    """The arguments of `scripts/predict.py`."""

    q: str
    """The question."""
    p: str = ""
    """One passage, taken as it stands: `null` is a word."""
    file: str | None = None
    """Or many: JSONL with the key `text`, one passage a line."""
    run: str | None = None
    """Folder name below outputs/runs or a path; null takes the newest run."""
    outputs_dir: str = "outputs"
    """Where runs lie."""

    def __post_init__(self) -> None:
        if not self.q.strip():
            raise ConfigError(must("q", "hold a question", repr(self.q), "Pass q='…' (make predict Q='…' P='…')."))
        if (not self.p) == (self.file is None):
            got = "both" if self.p else "neither"
            remedy = "Pass p='…' (make predict Q='…' P='…') or file=<JSONL>."
            raise ConfigError(must("p or file", "be given, and not both", got, remedy))


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
            raise ConfigError(must("stage", f"be {FIRST}", repr(self.stage), "Pass stage=first (make: STAGE=first)."))


@dataclass(kw_only=True)
class Publication:
    """The arguments of `scripts/push.py`."""

    run: str | None = None
    """A finished run: a folder below outputs/runs or a path; null takes the newest."""
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
    """A finished run: a folder below outputs/runs or a path; null takes the newest."""
    outputs_dir: str = "outputs"
    """Where runs lie."""


@dataclass(kw_only=True)
class Rerun:
    """The arguments of `scripts/rerun.py`."""

    manifest: str
    """A manifest.json of a stage, or its folder: outputs/runs/<run>/model."""
    outputs_dir: str | None = None
    """Where to write; null takes the folder the manifest records."""


@dataclass(kw_only=True)
class Faults:
    """The arguments of `scripts/faults.py`."""

    kills: int = 20
    """Processes to kill at random moments, over all stages; 0 for none."""
    chain: int = 5
    """Kills of one run before it is left to end."""
    files: int = 40
    """Files to damage, each in a finished run of its own; 0 for none."""
    seed: int = 1
    """Seed of moments, kinds and damage; which step a moment meets depends on the machine."""
    experiment: str = "smoke"
    """The experiment that is run."""
    cut: bool | None = None
    """Fewer rows and steps, every stage: smoke in seconds, quickstart in two minutes; null cuts smoke alone."""
    outputs_dir: str = "outputs"
    """Where the record goes, below faults/; the runs lie there too while they last."""

    def __post_init__(self) -> None:
        for key, least in (("kills", 0), ("chain", 1), ("files", 0)):
            if getattr(self, key) < least:
                raise ConfigError(must(key, f"be at least {least}", getattr(self, key), f"Pass {key}=5."))


@dataclass(kw_only=True)
class Profile:
    """The arguments of `scripts/profiling.py` beside the configuration's."""

    steps: int = 5
    """Training steps to look at, after two that are not counted."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(must("steps", "be at least 1", self.steps, "Pass steps=5."))
