"""The reference of all configuration keys, `.github/KEYS.md`, made from the schema.

Run `PYTHONPATH=. python tests/key_reference.py` to write it anew after a key was added, changed or removed.
"""

from __future__ import annotations

import re
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from composed_config import composed

from pipeline.config.argument_parser import keys, meanings, rule
from pipeline.config.schema import Config
from pipeline.core.fingerprint import plain

KEYS_MD = Path(__file__).resolve().parents[1] / ".github" / "KEYS.md"

HEAD = """# Keys

All configuration keys, made from [pipeline/config](../pipeline/config). They go into `ARGS`, as in
`make train ARGS="training.max_steps=null"`, or after the name of a script. A list is written `[a,b]`, and no value
`null`. The third column is the value that the quickstart, `make train`, resolves to;
`.venv/bin/python scripts/train.py experiment=<name> --cfg job` prints those of another experiment.

The keys of `model`, `data`, `mining`, `training` and `evaluation`, and `seed`, decide results. The others change none,
or only by rounding.

"""


def value(of: Any) -> str:
    """Return a value as it is written on the command line."""
    if of is None or isinstance(of, bool):
        return {None: "null", True: "true", False: "false"}[of]
    if isinstance(of, list):
        return f"[{','.join(map(value, of))}]"
    return " ".join(str(of).split()) or "''"


def reference() -> str:
    """Return the page: one table a section, in the order of the schema."""
    config = composed("experiment=quickstart")
    texts = meanings(Config)
    parts = [HEAD]
    for section, names in groupby(keys(Config), lambda name: name.rpartition(".")[0]):
        parts.append(f"## {section or 'The run'}\n\n| key | value | quickstart | meaning |\n|---|---|---|---|\n")
        for name in names:
            text = " ".join(texts[name].split())
            for python, written in (("None", "null"), ("True", "true"), ("False", "false")):
                text = re.sub(rf"\b{python}\b", written, text)
            now = value(plain(attrgetter(name)(config)))
            now = now if len(now) <= 40 else now[:39] + "…"
            cells = (f"`{name}`", rule(keys(Config)[name]), f"`{now}`", text)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    KEYS_MD.write_text(reference(), encoding="utf-8")
