"""How a command ends: every exception becomes a sentence on standard error and an exit status. Knows no Hydra."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core import console, signals
from pipeline.core.console import shown
from pipeline.core.credentials import masked
from pipeline.core.errors import (
    EXIT_REQUEUE,
    EXIT_STATUS,
    SIZE_LIMIT,
    Interrupted,
    PipelineError,
    ResourceError,
    must,
    named,
    one_line,
    out_of_memory,
)

EXIT_BUG = 1
"""Exit status after a bug in the pipeline."""

DRIVER_FAILED = ("CUDA driver error", "NVML_SUCCESS")
"""Parts of torch's messages for failures of the GPU's driver, other than a full memory."""

EXIT_UNREAD = 128 + signal.SIGPIPE
"""Exit status, without a message, if nobody reads the output to its end: a shell's status after SIGPIPE."""

OF_THE_SYSTEM = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP,
    errno.EXDEV, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG, errno.EBUSY, errno.ENOTCONN, errno.ENODEV,
    errno.ETIMEDOUT,
}  # fmt: skip
"""Error numbers of disks, permissions and limits: whatever the operation, the user can correct the cause."""

# Not below `pipeline`, so its lines go to the log file and not to the console.
log = logging.getLogger("command")


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Turn any exception that leaves the block into a line on standard error and an exit status.

    SIGTERM, and SIGHUP unless it is ignored, end the block like Ctrl-C.
    """
    console.open_closed()
    before = {number: signal.signal(number, _stop) for number in signals.stop_signals()}
    try:
        _require_current_folder()
        yield
        print(end="", flush=True)  # flush now: at exit it would be too late to report a failure
    except KeyboardInterrupt:
        console.say("interrupted: finished work is kept. Run the same command again to continue.")
        raise SystemExit(EXIT_REQUEUE) from None
    except Exception as error:
        raise SystemExit(report(error)) from None
    finally:
        signals.restore(before, _stop)
        console.drop_unwritten()


def _stop(number: int, frame: Any) -> None:
    if number == signal.SIGHUP:
        signals.hung_up()
    raise KeyboardInterrupt


def report(error: Exception, log_path: Path | None = None) -> int:
    """Print one line about an error, keep its traceback in the log, and return the exit status."""
    if isinstance(error, BrokenPipeError) and console.is_unread():
        return EXIT_UNREAD
    where = f" (log: {shown(log_path)})" if log_path and log_path.exists() else ""
    if isinstance(error, OSError) and error.filename is None and console.is_stuck():
        remedy = "Redirect it to a disk with room; finished work is kept."
        refused = ResourceError(must("standard output", "accept what is printed", error.strerror or error, remedy))
        error = refused.with_traceback(error.__traceback__)
    elif out_of_memory(error):
        remedy = "Free some, use a smaller model or data.limit, or lower runtime.micro_batch_tokens."
        error = ResourceError(must("memory", "suffice", one_line(error), remedy)).with_traceback(error.__traceback__)
    elif isinstance(error, OSError) and not isinstance(error, PipelineError):
        error = _file_refusal(error)
    elif isinstance(error, RuntimeError) and any(text in str(error) for text in DRIVER_FAILED):
        remedy = (
            "Update the driver, or set PYTORCH_ALLOC_CONF=expandable_segments:False to avoid calls that fail in some."
        )
        refused = ResourceError(must("the GPU's driver", "work", one_line(error), remedy))
        error = refused.with_traceback(error.__traceback__)
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        remedy = "Lower runtime.threads and runtime.workers, or raise the limit (ulimit -u)."
        refused = ResourceError(must("the system", "allow as many threads as are asked for", str(error), remedy))
        error = refused.with_traceback(error.__traceback__)
    if log_path and isinstance(error, PipelineError):
        log.error("stopped", exc_info=error)
    if isinstance(error, Interrupted):
        console.say(f"interrupted: {error}{where}")
        return EXIT_REQUEUE
    if isinstance(error, PipelineError):
        console.say(f"error: {one_line(error)}{where}")
        return EXIT_STATUS
    kept = _keep_traceback(error, log_path)
    what = f"this is a bug in the pipeline ({named(error)[:200]})"
    console.say(f"error: {what}. Please report it with the traceback in {kept}")
    return EXIT_BUG


def _require_current_folder() -> None:
    """Refuse to work in a folder that was removed: relative paths lead nowhere, and libraries fail on them.

    Raises:
        ResourceError: naming the folder, if the shell has set `PWD`.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        got = f"a removed one ({os.environ.get('PWD', 'of an unknown name')})"
        raise ResourceError(must("the current folder", "exist", got, "Change to another folder (cd).")) from None


def _file_refusal(error: OSError) -> Exception:
    """Return a refusal for an error of the system that the user can correct; return any other OSError as it is."""
    if error.errno not in OF_THE_SYSTEM and not (_lacks_its_folder(error) or _lacks_a_temporary_folder(error)):
        return error
    refused = unusable(error)
    refused.__cause__ = error
    return refused


def _lacks_its_folder(error: OSError) -> bool:
    """Return whether a missing file's folder is missing too, so that somebody removed it after the pipeline made it.

    A missing file whose folder exists is a bug: the pipeline should have written the file, or not opened it.
    """
    path = error.filename
    return error.errno == errno.ENOENT and isinstance(path, str | os.PathLike) and not Path(path).parent.exists()


def _lacks_a_temporary_folder(error: OSError) -> bool:
    return error.errno == errno.ENOENT and "usable temporary directory" in str(error.strerror)  # as `tempfile` says it


def unusable(error: OSError) -> ResourceError:
    """Return the refusal of a file or folder that the system does not let the pipeline write."""
    # A rename has two names, the first of them temporary. Without a name, the file had been opened before.
    path = str(error.filename2 or error.filename or "a file or standard output")
    if error.errno == errno.EFBIG:
        remedy = "Raise the limit and run the same command again: finished work is kept."
        return ResourceError(must(path, f"be within {SIZE_LIMIT}", error.strerror, remedy))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        rule, remedy = "allow as many open files as are needed", "Raise the limit (ulimit -n)."
        return ResourceError(must("the system", rule, error.strerror, remedy))
    if error.errno == errno.EAGAIN:
        remedy = "Lower runtime.workers, or raise the limit (ulimit -u)."
        return ResourceError(must("the system", "let a process start or continue", error.strerror, remedy))
    if _lacks_a_temporary_folder(error):
        remedy = "Free space, or set TMPDIR=<another folder>."
        return ResourceError(must("temporary files", "have a folder", error.strerror, remedy))
    if _lacks_its_folder(error):
        remedy = "If it was removed meanwhile, run the same command again: what is left is kept. Otherwise make it."
        return ResourceError(must(str(Path(error.filename).parent), "exist", "no such folder", remedy))
    if error.errno == errno.EISDIR:
        return ResourceError(must(path, "be a file", "a folder", "Move it away and run the same command again."))
    if os.path.islink(path) and not os.path.exists(path):
        remedy = "Make the folder it links to, or pass outputs_dir=<another folder>."
        return ResourceError(must(path, "be usable", f"a link to nothing ({os.readlink(path)})", remedy))
    remedy = "Free space, correct the permissions, or pass outputs_dir=<another folder>."
    return ResourceError(must(path, "be usable", error.strerror or "an error", remedy))


def _keep_traceback(error: Exception, log_path: Path | None) -> str:
    """Append the traceback to the log, or without one to a temporary file, or print it; return where it went."""
    text = str(masked("".join(traceback.format_exception(error))))
    try:
        if log_path is None:
            descriptor, name = tempfile.mkstemp(prefix="reranker-pipeline-", suffix=".log")
            os.close(descriptor)
            log_path = Path(name)
        with log_path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        return shown(log_path)
    except OSError as problem:
        console.say(text.rstrip())
        return f"the lines above (no file could hold it: {problem})"
