"""How a command ends: whatever leaves it becomes one sentence on standard error and an exit status. Knows no Hydra."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import (
    EXIT_REQUEUE,
    EXIT_STATUS,
    Interrupted,
    PipelineError,
    ResourceError,
    must,
    named,
    one_line,
    out_of_gpu_memory,
)

EXIT_BUG = 1
"""Exit status after an error that is ours."""

DRIVER_FAILED = ("CUDA driver error", "NVML_SUCCESS")
"""What torch says where the driver does, but for a full memory."""

EXIT_UNREAD = 128 + signal.SIGPIPE
"""Exit status, without a word, when what is printed is not read to its end: what a shell says of such a command."""

# Not below `pipeline`, so its lines go to the log file and not to the console.
log = logging.getLogger("command")


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Turn whatever leaves the block into a line on standard error and an exit status; SIGTERM ends it like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
        print(end="", flush=True)  # at exit it would be too late to say how that went
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept. Run the same command again to go on.", file=sys.stderr)
        raise SystemExit(EXIT_REQUEUE) from None
    except Exception as error:
        raise SystemExit(report(error)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        if _unread():  # what is left to print would be complained about at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unread() -> bool:
    """Whether nobody reads standard output any more, as in `| head -1`."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # it has no descriptor: closed, or a test's
        reader = select.poll()
        reader.register(sys.stdout, select.POLLERR)
        return bool(reader.poll(0))
    return False


def report(error: Exception, log_path: Path | None = None) -> int:
    """Print the one line about an error, keep its traceback in the log, return the exit status."""
    if isinstance(error, BrokenPipeError) and _unread():
        return EXIT_UNREAD
    where = f" (log: {shown(log_path)})" if log_path else ""
    if isinstance(error, OSError) and not isinstance(error, PipelineError):
        error = _file_refusal(error)
    elif _is_memory(error):
        remedy = "Free some, use a smaller model or data.limit, or lower runtime.micro_batch_tokens."
        error = ResourceError(must("memory", "suffice", one_line(error), remedy)).with_traceback(error.__traceback__)
    elif isinstance(error, RuntimeError) and any(text in str(error) for text in DRIVER_FAILED):
        remedy = "Update the driver; PYTORCH_ALLOC_CONF=expandable_segments:False spares calls some drivers fail at."
        refused = ResourceError(must("the GPU's driver", "work", one_line(error), remedy))
        error = refused.with_traceback(error.__traceback__)
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        remedy = "Lower runtime.threads and runtime.workers, or raise the limit (ulimit -u)."
        refused = ResourceError(must("the system", "let as many threads start as are asked for", str(error), remedy))
        error = refused.with_traceback(error.__traceback__)
    if log_path and isinstance(error, PipelineError):
        log.error("stopped", exc_info=error)
    if isinstance(error, Interrupted):
        print(f"interrupted: {error}{where}", file=sys.stderr)
        return EXIT_REQUEUE
    if isinstance(error, PipelineError):
        print(f"error: {one_line(error)}{where}", file=sys.stderr)
        return EXIT_STATUS
    kept = _keep_traceback(error, log_path)
    print(
        f"error: this is a bug in the pipeline ({named(error)[:200]}). Please report it with the traceback in {kept}",
        file=sys.stderr,
    )
    return EXIT_BUG


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: Python's, a GPU's, or torch's words for a CPU."""
    is_torch = isinstance(error, RuntimeError) and (out_of_gpu_memory(error) or "can't allocate memory" in str(error))
    return isinstance(error, MemoryError) or is_torch


def _file_refusal(error: OSError) -> Exception:
    """A full disk or a missing permission is the user's to mend; any other OSError stays what it is."""
    if error.errno not in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EEXIST,
    ):
        return error
    refused = unusable(error)
    refused.__cause__ = error
    return refused


def unusable(error: OSError) -> ResourceError:
    """The refusal of a file or folder that the system does not let us write."""
    remedy = "Free space, correct the permissions, or pass outputs_dir=<another folder>."
    return ResourceError(must(str(error.filename or "a file"), "be usable", error.strerror or "an error", remedy))


def _keep_traceback(error: Exception, log_path: Path | None) -> str:
    """Append the traceback to the log, or to a temporary file where there is none; where it went."""
    text = "".join(traceback.format_exception(error))
    try:
        if log_path is None:
            descriptor, name = tempfile.mkstemp(prefix="reranker-pipeline-", suffix=".log")
            os.close(descriptor)
            log_path = Path(name)
        with log_path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        return shown(log_path)
    except OSError as problem:
        return f"no file: {problem}"


def shown(path: Path) -> str:
    """A path as a person would type it from here: relative where it lies below the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
