"""Verify a finished run: its files, its figures, its last stretch of training. Reads the run; writes nothing into it.

Needs neither the hub nor the source of the data: the run's folders are enough.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.commands import run_files
from pipeline.commands.run_folder import find_run, mined_of
from pipeline.config import recorded
from pipeline.config.command_arguments import Verification
from pipeline.core import artifacts, atomic, provenance
from pipeline.core.errors import Interrupted, ResourceError, must
from pipeline.core.records import AS_RETRIEVED, MEASURES, PROTOCOLS, TRAINED
from pipeline.core.reproducibility import differences
from pipeline.data import storage, trec
from pipeline.engine import checkpoints
from pipeline.engine.modeling import Reranker
from pipeline.engine.training import Hooks, Trainer
from pipeline.evaluation import evaluator, reranking
from pipeline.inputs.tokens import TokenTable
from pipeline.stages.models import load_saved, scorer_of
from pipeline.stages.plan import RunPlan
from pipeline.stages.train import rows_of

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest difference allowed in weights and means when this machine is outside the run's exactness scope."""


@dataclass(slots=True)
class Verdict:
    """What was checked and what differs, one sentence each."""

    run: Path
    checked: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether nothing differs."""
        return not self.differs

    def __str__(self) -> str:
        word = "VERIFIED" if self.verified else f"NOT VERIFIED: {len(self.differs)} differ"
        lines = [*(f"  {line}" for line in self.checked), *(f"  DIFFERS {line}" for line in self.differs)]
        return "\n".join([f"{word}  {self.run}", *lines])


def verify(asked: Verification) -> Verdict:
    """Check a run in three ways: files against manifests, the model's figures, and its last stretch of training.

    Raises:
        ArtifactError: when there is no such run, or another version of this project recorded its configuration.
    """
    folder = find_run(asked.run, asked.outputs_dir)
    verdict = Verdict(folder)
    verdict.differs, compared = run_files.check(folder)
    verdict.checked.append(compared)
    if verdict.differs:
        verdict.checked.append("nothing was recomputed: the files must be intact first")
        return verdict
    outputs = folder.parent.parent
    config, manifest = recorded.of_manifest(folder / "model", masked_too=True)  # no input is read again
    run = RunPlan(dataclasses.replace(config, outputs_dir=str(outputs)))
    _circumstances(verdict, manifest)
    mined = mined_of(folder, manifest)
    assert mined is not None, "it is among the files"
    _figures(verdict, run, mined)
    with tempfile.TemporaryDirectory() as place:
        _stretch(verdict, run, mined, Path(place))
    return verdict


# --- Figures ----------------------------------------------------------------------------------------------------------


def _circumstances(verdict: Verdict, manifest: dict[str, Any]) -> None:
    """Compare libraries, hardware and code with the run's: the first suspects when figures differ."""
    then = manifest["provenance"]
    now = {"libraries": provenance.versions(), "hardware": provenance.hardware(), "code": provenance.checkout()}
    before = {"libraries": then["versions"], "hardware": then["hardware"], "code": then["git"]}
    if None in (before["code"]["commit"], now["code"]["commit"]):
        which = "this checkout" if now["code"]["commit"] is None else "the run's checkout"
        del now["code"]
        verdict.checked.append(
            f"code: not compared, since git gives no commit for {which} (`git status` there says why)"
        )
    for name in now:
        changed = differences(before[name], now[name])
        verdict.checked.append(f"{name}: {f'not as in the run: {changed}' if changed else 'as in the run'}")


def _scope(run: RunPlan, reranker: Reranker) -> dict[str, Any]:
    budget = run.token_budget(reranker.hidden_size, reranker.layers)
    return run.scope(run.config.training.precision, budget)


def _figures(verdict: Verdict, run: RunPlan, mined: Path) -> None:
    """Score the dev set with the reloaded model, and compare measures and rankings with the recorded ones."""
    dev = storage.read_set(mined / "dev")
    evaluations = (artifacts.manifest_of(verdict.run / "card") or {})["key"]["evaluations"]
    name = evaluations.get(run.config.data.dev_name)
    evaluated = verdict.run / "evaluations" / str(name)
    reranker = load_saved(run, verdict.run / "model")
    rankings = reranking.rerank(dev, scorer_of(run, reranker))
    found = evaluator.evaluate(dev, {TRAINED: rankings}, resamples=run.config.evaluation.resamples)
    measures = atomic.read_json(evaluated / "measures.json")
    apart = max(
        abs(found.means(protocol, TRAINED)[measure] - measures[protocol][TRAINED][measure])
        for protocol in PROTOCOLS for measure in MEASURES
    )  # fmt: skip
    ranked = trec.read_run(evaluated / "run.trec", known=dev.passages)
    now = {query: rankings[AS_RETRIEVED][query] for query in found.queries if rankings[AS_RETRIEVED][query]}
    moved = sum(list(ranked.get(query, ())) != ranking for query, ranking in now.items())
    if others := [of for of in evaluations if of != dev.name]:
        verdict.checked.append(f"figures: {', '.join(others)} not scored again, only their files compared")
    if apart == 0 and moved == 0 and len(ranked) == len(now):
        verdict.checked.append(f"figures: {dev.name} scored again by the reloaded model, equal in every digit and rank")
        return
    outside, cause = _cause(_recorded_scope(verdict.run), _scope(run, reranker))
    line = f"figures: {dev.name} scored again: means {apart:.3g} apart, {moved} of {len(now)} rankings differ; {cause}"
    (verdict.checked if outside and apart <= TOLERANCE else verdict.differs).append(line)


def _cause(before: dict[str, Any] | None, now: dict[str, Any]) -> tuple[bool, str]:
    """Return whether this machine is outside the run's scope, and the cause of a difference in words.

    Only outside the scope is a tolerance allowed.
    """
    if before is None:
        return False, "the run's training.json records no scope, so the cause is unknown"
    if changed := differences(before, now):
        of_threads = {name for name in {**before, **now} if before.get(name) != now.get(name)} == {"threads"}
        remedy = f" (to be inside it: OMP_NUM_THREADS={before['threads']} make verify …)" if of_threads else ""
        return True, f"this machine is outside the run's scope: {changed}{remedy}"
    return False, "the scope is the same, so weights or data differ"


def _recorded_scope(run: Path) -> dict[str, Any] | None:
    scope: dict[str, Any] | None = atomic.read_json(run / "model" / "training.json").get("scope")
    return scope


# --- Training ---------------------------------------------------------------------------------------------------------


def _stretch(verdict: Verdict, run: RunPlan, mined: Path, place: Path) -> None:
    """Repeat the steps between the last two checkpoints, and compare the weights with the later checkpoint's."""
    root, config = verdict.run / "checkpoints", run.config.training
    steps = checkpoints.steps(root)
    _saved_is_a_checkpoint(verdict, root)
    if len(steps) < 2:
        kept = f"only that of step {steps[0]} is kept" if steps else "none is kept"
        remedy = (
            "training.keep_checkpoints=2 and training.eval_steps above 0 and below a run's number of steps keep two"
        )
        verdict.checked.append(f"training: not repeated, because that takes two checkpoints and {kept} ({remedy})")
        return
    start, end = steps[-2:]
    try:
        shutil.copytree(checkpoints.folder_of(root, start), checkpoints.folder_of(place / "checkpoints", start))
    except shutil.Error as error:  # its first argument lists (source, copy, the system's message) per failed file
        got, remedy = error.args[0][0][2], "Free space there, or set TMPDIR=<another folder>."
        raise ResourceError(must(f"{place.parent} (TMPDIR)", "hold a copy of a checkpoint", got, remedy)) from error
    reranker = load_saved(run, verdict.run / "model")
    (place / "tokens").mkdir()
    texts, total = storage.texts(mined), storage.count_texts(mined)
    TokenTable.write(texts, reranker.tokenizer, run.config.training_length, place / "tokens", total)
    budget = run.token_budget(reranker.hidden_size, reranker.layers)
    identity = {"scope": _scope(run, reranker)}
    trainer = Trainer(
        reranker, rows_of(mined, place / "tokens", reranker, run.config.training_length),
        dataclasses.replace(config, eval_sets=[], keep_best=False, selection_set=None),
        seed=run.config.seed, device=run.device, precision=config.precision, token_budget=budget,
        folder=place / "checkpoints", identity=identity,
        hooks=Hooks(interrupted=lambda: trainer.state.step >= end),
    )  # fmt: skip
    with contextlib.suppress(Interrupted):  # `interrupted` stops it at the step of the later checkpoint
        trainer.run()
    _compare(verdict, checkpoints.folder_of(root, end), checkpoints.folder_of(place / "checkpoints", end), start, end)


def _compare(verdict: Verdict, before: Path, now: Path, start: int, end: int) -> None:
    manifests = [artifacts.manifest_of(folder) or {} for folder in (before, now)]
    digests = [manifest["files"]["model.safetensors"]["sha256"] for manifest in manifests]
    scopes = [manifest.get("scope") for manifest in manifests]
    what = f"training: steps {start + 1} to {end} repeated"
    if digests[0] == digests[1]:
        verdict.checked.append(f"{what}: weights bit-identical (sha256 {digests[0][:12]})")
        return
    apart = _apart(load_file(before / "model.safetensors"), load_file(now / "model.safetensors"))
    outside, cause = _cause(scopes[0], scopes[1] or {})
    line = f"{what}: weights up to {apart:.3g} apart; {cause}"
    (verdict.checked if outside and apart <= TOLERANCE else verdict.differs).append(line)


def _apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between two sets of weights; infinity if names or shapes differ."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return float(np.max([float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel()]))


def _saved_is_a_checkpoint(verdict: Verdict, root: Path) -> None:
    """Compare the saved weights with the checkpoint they were saved from, if it is still kept."""
    step = atomic.read_json(verdict.run / "model" / "training.json")["saved_step"]
    folder = checkpoints.folder_of(root, step)
    if not folder.is_dir():
        return
    saved = load_file(verdict.run / "model" / "model.safetensors")
    same = _apart(saved, load_file(folder / "model.safetensors")) == 0
    line = f"weights: the saved model {'is' if same else 'is not'} the checkpoint of step {step}"
    (verdict.checked if same else verdict.differs).append(line)
