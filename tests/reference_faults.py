"""How sentence-transformers' CrossEncoderTrainer resumes from damaged checkpoints: reference_faults.py <record.json>.

A tiny random model is trained with checkpoints. Then each file of the newest checkpoint in turn is missing, cut short
or has one bit flipped, and training is resumed with `resume_from_checkpoint=True`. Not a test: it writes the record
that .github/FAULTS.md quotes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import platform
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from small_models import labelled, model_config, tiny

from pipeline.core import atomic
from pipeline.core.fingerprint import text_digest
from pipeline.engine import model_files
from pipeline.faults.damage import damages

STEPS, EVERY, ROWS, BATCH = 12, 4, 96, 8
CRASH, OTHER, SAME = "crash", "other weights, silently", "the same weights"


def weights_after(start: Path, out: Path, *, resume: bool) -> str:
    """Train and return the digest of the final weights."""
    torch.manual_seed(1)
    model = CrossEncoder(str(start), device="cpu", local_files_only=True)
    columns = dict(zip(("query", "passage", "label"), map(list, zip(*labelled(ROWS), strict=True)), strict=True))
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(out), max_steps=STEPS, per_device_train_batch_size=BATCH, use_cpu=True, learning_rate=1e-3,
        warmup_steps=2, save_steps=EVERY, logging_strategy="no", report_to="none", disable_tqdm=True, seed=12,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=BinaryCrossEntropyLoss(model)
    )
    trainer.train(resume_from_checkpoint=True if resume else None)
    state = model.model.state_dict()
    return text_digest(f"{name} {state[name].double().flatten().tolist()}" for name in sorted(state))


def outcome(start: Path, undamaged: Path, place: Path, name: str, data: bytes | None, expected: str) -> tuple[str, str]:
    """Resume with one damaged file; return the outcome, and the error's class where it raises."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(undamaged, place)
    path = place / f"checkpoint-{2 * EVERY}" / name
    path.unlink() if data is None else path.write_bytes(data)
    try:
        found = weights_after(start, place, resume=True)
    except Exception as error:  # whatever a user would meet
        return CRASH, type(error).__name__
    return (SAME if found == expected else OTHER), ""


def measure(root: Path) -> dict[str, Any]:
    """Return the record: the outcome of each fault, the number of each outcome, and the settings and versions."""
    start, out = root / "start", root / "undamaged"
    model_files.save(tiny(root / "base", dropout=0.1), start, model_config(root / "base", dropout=0.1))
    expected = weights_after(start, out, resume=False)
    for path in out.glob("checkpoint-*"):
        if path.name not in {f"checkpoint-{EVERY}", f"checkpoint-{2 * EVERY}"}:
            shutil.rmtree(path)  # as if killed between the second checkpoint and the end
    newest = out / f"checkpoint-{2 * EVERY}"
    files = sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())
    shutil.copytree(out, root / "control")
    control = weights_after(start, root / "control", resume=True)
    draw, faults = random.Random(1), []
    for name in files:
        for fault, data in damages((newest / name).read_bytes(), draw):
            came, error = outcome(start, out, root / "damaged", name, data, expected)
            faults.append({"file": name, "fault": fault, "outcome": came, **({"error": error} if error else {})})
            print(f"{name} {fault}: {came} {error}", file=sys.stderr, flush=True)
    return {
        "trainer": "sentence_transformers CrossEncoderTrainer, resume_from_checkpoint=True",
        "control": SAME if control == expected else OTHER,
        "faults": len(faults),
        "outcomes": dict(sorted(Counter(fault["outcome"] for fault in faults).items())),
        "by_fault": faults,
        "steps": STEPS,
        "save_steps": EVERY,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("sentence-transformers", "transformers", "torch")},
        },
    }


def main() -> None:
    """Write the record to the file named on the command line."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        record = measure(Path(root))
    atomic.write_json(Path(sys.argv[1]), record)
    print(record["outcomes"])


if __name__ == "__main__":
    main()
