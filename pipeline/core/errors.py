"""Errors in a form that a user can act on. Imports nothing from the other modules.

Every refusal reads `<key or thing> must <rule>, got <value>. <what to do>` and is made by `must`. Only a refusal that
quotes a whole sentence of `artifacts.problems` (`got: …`) is not, because `must` would cut it. An `Interrupted` or a
`NumericsError` describes its step in its own words. The entry points print an error as one sentence and exit with
`EXIT_STATUS` (`EXIT_REQUEUE` for `Interrupted`); a traceback is shown only for a bug in the pipeline.
"""

from __future__ import annotations

import errno

EXIT_STATUS = 2
"""Exit status of a command that was refused or failed with a `PipelineError`."""

EXIT_REQUEUE = 75
"""Exit status (`EX_TEMPFAIL`) after SIGTERM, SIGHUP or SIGINT: finished work is kept, run the command again."""

SIZE_LIMIT = "the limit on a file's size (ulimit -f)"
"""What the system means by `File too large`."""

GPU_WITHOUT_MEMORY = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # from segments that are mapped as they grow
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # its workspace did not fit
)
"""Messages of drivers and libraries for a full GPU memory, where torch does not raise its own exception class."""


SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}
"""Error numbers of shortages other than memory: a file that cannot be read now may be readable later."""


class PipelineError(Exception):
    """Base class of every error whose message is meant for the user."""


class ConfigError(PipelineError, ValueError):
    """A configuration value breaks a rule."""


class DataError(PipelineError, ValueError):
    """An input file, collection or row cannot be used."""


class HubError(PipelineError):
    """A model or data set cannot be obtained from the hub."""


class ModelError(PipelineError, ValueError):
    """A model folder cannot be loaded as a cross-encoder."""


class ArtifactError(PipelineError):
    """A file that the pipeline wrote is missing, incomplete or altered."""


class NumericsError(PipelineError, ArithmeticError):
    """A loss, gradient, weight or score is not finite."""


class ResourceError(PipelineError):
    """Disk, memory, a device or another resource of the system does not suffice."""


class Interrupted(PipelineError):
    """SIGTERM, SIGHUP or SIGINT arrived and the work so far is saved."""


def changed(thing: str) -> DataError:
    """Return the refusal of an input that changed after its content was hashed and before it was read."""
    return DataError(must(thing, "stay unchanged while a run reads it", "new content", "Run the same command again."))


def one_file(key: str) -> str:
    """The remedy where a key that names one file is given several, or a pattern."""
    return f"{key} names one file: concatenate several into one."


def out_of_gpu_memory(error: Exception) -> bool:
    """Return whether a GPU ran out of memory, for a tensor or for a library that bypasses torch's allocator."""
    by_torch = type(error).__name__ == "OutOfMemoryError"  # no import: a mistyped key is refused without loading torch
    said = str(error)
    # While composing the error above, torch asks the driver which processes hold the memory, and may fail at that.
    in_composing = "NVML_SUCCESS" in said and "CUDACachingAllocator" in said
    return by_torch or in_composing or any(text in said for text in GPU_WITHOUT_MEMORY)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports exhausted memory: Python's, a GPU's, or the system's as worded by a library."""
    if isinstance(error, OSError | RuntimeError):
        said = str(error).lower()
        return out_of_gpu_memory(error) or "can't allocate memory" in said or "cannot allocate memory" in said
    return isinstance(error, MemoryError)


def raise_shortage(error: BaseException) -> None:
    """Raise the first error in a chain of causes that is a shortage of memory, disk or open files, if there is one.

    Such an error says nothing about the file that was read.
    """
    found: BaseException | None = error
    seen = set[int]()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if out_of_memory(found) or (isinstance(found, OSError) and found.errno in SHORTAGES):
            raise found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, and the next too if the first ends in a colon.

    Without a message, return the name of the error's class.
    """
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {others[0]}" if first.endswith(":") and others else first


def one_line(error: BaseException) -> str:
    """Return an error's whole message on one line, or the name of its class if there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def named(error: BaseException) -> str:
    """Return an error's class and the first line of its message, or the class alone if there is no message."""
    said, kind = first_line(error), type(error).__name__
    return kind if said == kind else f"{kind}: {said}"


def must(thing: str, rule: str, got: object, remedy: str) -> str:
    """Return a refusal in the form that all refusals share.

    `got` is printed as it is, up to 200 characters: the caller quotes a value that the user gave or a file holds
    (`repr(value)`), and describes anything else plainly (`nothing there`, `3 labels in <folder>`). It may be another
    library's message: a final full stop is removed and unprintable characters are escaped.
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(got).removesuffix("."))
    if len(shown) > 200:
        shown = shown[:200] + "…"
    return f"{thing} must {rule}, got {shown}. {remedy}"
