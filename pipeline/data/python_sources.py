"""Extract query/passage pairs from the docstrings of source files with `ast`, in other processes.

The sources are neither imported nor run. Knows Python's syntax; does not know where packages are installed, nor which
of the usable pairs are kept.
"""

from __future__ import annotations

import ast
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.core.errors import ResourceError, must
from pipeline.data.docstrings import query_and_passage

Pair = tuple[str, str, str, int]
"""Query, passage, module, line (1-based)."""

FILES_PER_PROCESS = 100
"""Fewest files per process: fewer are not worth the start of another interpreter."""

CHUNK_FILES = 150
"""Number of files read together; a docstring repeated among them is parsed once."""

_ADDED_DOCS = {"add_docstr", "add_newdoc", "_add_docstr", "add_newdoc_for_scalar_type"}
_ENTRY = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
from pipeline.data.python_sources import serve
serve()
"""
# Signals reach the whole process group, and a killed parent closes the pipe: no worker may print a traceback then.


def read_sources(files: list[tuple[str, str]], workers: int) -> tuple[list[Pair], Counter[str]]:
    """Return the pairs of all files in the files' order, and counts; use other processes if there is enough to do."""
    workers = max(1, min(workers, len(files) // FILES_PER_PROCESS))
    chunks = [files[start : start + CHUNK_FILES] for start in range(0, len(files), CHUNK_FILES)]
    if workers == 1:
        results = [read_modules(chunk) for chunk in chunks]
    else:
        with ThreadPoolExecutor(workers) as pool:
            shares = list(pool.map(_in_process, [chunks[start::workers] for start in range(workers)]))
        results = [shares[chunk % workers][chunk // workers] for chunk in range(len(chunks))]
    counts: Counter[str] = Counter()
    for _, counted in results:
        counts.update(counted)
    return [pair for pairs, _ in results for pair in pairs], counts


def _in_process(chunks: list[list[tuple[str, str]]]) -> list[tuple[list[Pair], dict[str, int]]]:
    """Run `read_modules` on each chunk in one fresh interpreter.

    `multiprocessing` does not serve: forking a process that runs torch's threads can deadlock. A pool of spawned
    processes is no slower (0.3 s to start), but fails inside a joblib worker, whose start method a spawned process does
    not know.

    Raises:
        ResourceError: if the process is killed.
    """
    home = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ENTRY],
            input=json.dumps(chunks).encode(),
            stdout=subprocess.PIPE,
            env=environment,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        if error.returncode > 0:
            raise
        rule, got = "run to its end", f"one that was killed by {signal.Signals(-error.returncode).name}"
        remedy = "Lower runtime.workers: there may be too little memory for so many."
        raise ResourceError(must("a process that reads sources", rule, got, remedy)) from None
    return [([(q, p, m, n) for q, p, m, n in pairs], counts) for pairs, counts in json.loads(done.stdout)]


def serve() -> None:
    """Serve as a worker: read chunks of files from standard input, write results to standard output, as JSON."""
    # The garbage collector would traverse the growing syntax trees again and again, which takes five times as long.
    gc.disable()
    chunks = json.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps([read_modules(chunk) for chunk in chunks]).encode())


def read_modules(files: list[tuple[str, str]]) -> tuple[list[Pair], dict[str, int]]:
    """Return the pairs of the given (module, path) sources in order, and counts of docstrings read and dropped."""
    pairs: list[Pair] = []
    counts: Counter[str] = Counter()
    parse = functools.cache(query_and_passage)  # libraries repeat whole docstrings
    for module, path in files:
        source = Path(path).read_bytes()
        if b'"""' not in source and b"'''" not in source:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
                found = _docstrings(ast.parse(source))
        except (SyntaxError, ValueError, RecursionError):
            counts["unreadable_modules"] += 1
            continue
        for doc, line in found:
            counts["docstrings"] += 1
            result = parse(doc)
            if isinstance(result, str):
                counts[result] += 1
            elif not _is_clean(*result):
                counts["not_text"] += 1
            else:
                pairs.append((*result, module, line))
    return pairs, dict(counts)


def _is_clean(query: str, passage: str) -> bool:
    """Return whether both texts can be encoded as UTF-8: an escape in a docstring may give a lone surrogate."""
    try:
        (query + passage).encode()
    except UnicodeEncodeError:
        return False
    return True


def _docstrings(tree: ast.Module) -> list[tuple[str, int]]:
    """Return docstrings and their lines: of module, classes, functions and methods, and those added by a call."""
    found: list[tuple[str, int]] = []
    pending: list[ast.stmt | ast.Module] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found += _added(node.value)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False)
            if doc:
                found.append((doc, node.body[0].lineno))
        if isinstance(node, ast.Module | ast.ClassDef | ast.If):
            pending.extend(reversed([*node.body, *(node.orelse if isinstance(node, ast.If) else [])]))
        elif isinstance(node, ast.Try):
            handled = [statement for handler in node.handlers for statement in handler.body]
            pending.extend(reversed([*node.body, *handled, *node.orelse]))
    return found


def _added(call: ast.Call) -> list[tuple[str, int]]:
    """Return the text in a call such as `add_docstr(torch.abs, '''…'''.format(…))`, which documents compiled code."""
    function = call.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if name not in _ADDED_DOCS:
        return []
    found = []
    for argument in call.args:
        text = argument
        if isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute) and text.func.attr == "format":
            text = text.func.value
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and "\n" in text.value:
            found.append((text.value, text.lineno))
    return found
