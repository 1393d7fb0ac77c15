"""A campaign of faults on purpose: runs are killed at random moments, and the files they wrote are damaged.

Nothing may be lost: a run that is started again ends with the undisturbed run's results, and a damaged file is made
again or refused, never used. `kills` and `damage` cause the faults; this module decides how many and in which run, and
writes the record.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path

from pipeline.config.command_arguments import Faults
from pipeline.config.compose import composed
from pipeline.core import atomic
from pipeline.core.errors import ConfigError, must
from pipeline.faults.damage import damage_files
from pipeline.faults.kills import MODEL, Record, chain, undisturbed
from pipeline.faults.victim import Place, Server

log = logging.getLogger(__name__)

ONE_THREAD = ("runtime=cpu", "runtime.threads=1", "runtime.workers=1")

CUTS = {
    "smoke": (
        "data.limit=150", "data.dev_queries=20", "data.validation_queries=20", "mining.dev_depth=5",
        "training.max_steps=12", "training.eval_steps=4", *ONE_THREAD,
        "evaluation.bi_encoder=false", "evaluation.fusion=false", "emissions=off",
    ),
    "quickstart": (
        "data.packages=[pandas,networkx]", "data.dev_queries=40", "data.validation_queries=10", "mining.dev_depth=10",
        "training.max_steps=60", "training.eval_steps=20", *ONE_THREAD,
    ),
}  # fmt: skip
"""Experiment → overrides that shorten it: `smoke` to seconds, `quickstart` (real weights, energy) to about 2 minutes.

Every stage and three checkpoints remain.
"""


def arguments(asked: Faults) -> list[str]:
    """Return the arguments of the run that is to be broken.

    Raises:
        ConfigError: when the experiment is to be cut but has no cut.
    """
    is_cut = asked.experiment == "smoke" if asked.cut is None else asked.cut
    if is_cut and asked.experiment not in CUTS:
        remedy = "Pass cut=false to run it as it is."
        raise ConfigError(must("cut=true", f"go with experiment={' or '.join(CUTS)}", repr(asked.experiment), remedy))
    return [f"experiment={asked.experiment}", *(CUTS[asked.experiment] if is_cut else ())]


def run(asked: Faults) -> tuple[Record, Path]:
    """Kill runs `asked.kills` times, in chains of `asked.chain`, then damage files; return the record and its path.

    Raises:
        ConfigError: when there is no such experiment, or it is to be cut but has no cut.
    """
    draw, record, words = random.Random(asked.seed), Record(), arguments(asked)
    composed(words)  # a wrong configuration is refused here, not on the console of a run
    folder, began = Path(asked.outputs_dir).resolve() / "faults", time.time()
    atomic.make_folder(folder)
    with (
        tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work,
        closing(Server(Path(work) / "home")) as server,
    ):

        def place(name: str) -> Place:
            return Place(Path(work) / name, words, server)

        reference = undisturbed(place("undisturbed"))
        log.info("undisturbed: %.1f s of processor time, %d results", reference.seconds, len(reference.results))
        while record.kills.total() < asked.kills:
            broken = place(f"run-{len(record.chains) + 1}")
            chain(broken, reference, draw, min(asked.chain, asked.kills - record.kills.total()), record)
            log.info("%s: %d kills, %d lost so far", broken.root.name, record.chains[-1], len(record.lost))
            shutil.rmtree(broken.root)
            if record.lost and not record.chains[-1]:  # the run fails by itself: no kill would ever happen
                break
        damage_files(reference, place("damaged"), draw, asked.files, record)
    cut = "-cut" if len(words) > 1 else ""
    path = folder / f"{asked.experiment}{cut}-kills{asked.kills}-files{asked.files}-seed{asked.seed}.json"
    facts = {
        "experiment": asked.experiment, "arguments": words, "seed": asked.seed,
        "undisturbed_seconds_of_processor_time": round(reference.seconds, 1),
        "undisturbed_model": next(iter(digest for name, digest in reference.results.items() if name.endswith(MODEL))),
        **record.as_json(),
    }  # fmt: skip
    atomic.write_json(path, {**facts, "seconds": round(time.time() - began, 1)})
    return record, path
