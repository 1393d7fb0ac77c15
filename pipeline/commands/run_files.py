"""Compare a finished run's files with their manifests, and the copies in its folder with their originals.

Reads files only; loads no model and computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.commands.run_folder import folders_of, mined_of
from pipeline.config import recorded
from pipeline.core import artifacts
from pipeline.core.fingerprint import fingerprint
from pipeline.reporting.kept_comparison import FILE, card_of, kept


def check(run: Path) -> tuple[list[str], str]:
    """Return what differs, one sentence each, and a sentence on what was compared."""
    differs, whole, counted, bytes_ = list[str](), set[Path](), 0, 0
    for folder in folders_of(run):
        if found := artifacts.problems(folder):
            differs += found
            continue
        whole.add(folder)
        manifest = artifacts.manifest_of(folder) or {}
        key = manifest.get("key")
        if isinstance(key, dict) and fingerprint(key) != manifest.get("fingerprint"):
            differs.append(f"{folder}: its fingerprint does not match its key")
        named = set(manifest["files"])
        if strange := sorted(str(p.relative_to(folder)) for p in artifacts.files(folder) if
                             str(p.relative_to(folder)) not in named):  # fmt: skip
            differs.append(f"{folder} holds {strange[0]}, which its manifest does not list")
        counted, bytes_ = counted + len(named), bytes_ + sum(file["size"] for file in manifest["files"].values())
    if run / "model" in whole:
        differs += _mined(run)
    differs += _copies(run, whole)
    return differs, f"files: {counted} files, {bytes_ / 2**20:.1f} MiB, compared with their manifests"


def _mined(run: Path) -> Iterator[str]:
    manifest = artifacts.manifest_of(run / "model") or {}
    if mined_of(run, manifest) is None:
        yield (
            f"{run.parent.parent / 'mined'} must hold the mined set the run was trained on, got no folder "
            f"*-{manifest['key']['mine']}. Copy mined/ along with runs/, or repeat the run's command"
        )


def _copies(run: Path, whole: set[Path]) -> Iterator[str]:
    """Yield a sentence for each of the run's copies for people that differs from its original in an intact folder."""
    model, card = run / "model", run / "card"
    same: dict[str, bool] = {}
    if model in whole:
        same["metrics.jsonl"] = _holds(run / "metrics.jsonl", (model / "metrics.jsonl").read_bytes())
        same[recorded.FILE] = recorded.is_copy(run / recorded.FILE, recorded.values_of(model))
    if card in whole:
        same["README.md"] = _holds(run / "README.md", card_of(run).encode("utf-8", "backslashreplace"))
        same["summary.json"] = _holds(run / "summary.json", (card / "summary.json").read_bytes())
        if (run / FILE).is_file() and kept(run) is None:
            yield (
                f"{run / FILE} was altered, or compares other figures than the card's. Repeat "
                f'make reproduce ARGS="run={run}", or delete it'
            )
    for name, is_same in same.items():
        if not is_same:
            state = "differs from what the run wrote" if (run / name).exists() else "is missing"
            yield f"{run / name} {state}. Repeat the run's command: it trains nothing and writes the file again"


def _holds(path: Path, expected: bytes) -> bool:
    return path.is_file() and path.read_bytes() == expected
