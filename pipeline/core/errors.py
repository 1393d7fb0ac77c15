"""What can go wrong, in a form a user can act on. Knows nothing of the rest.

Every refusal reads `<key or thing> must <rule>, got <value>. <what to do>` and is made by `must`, but where a whole
sentence of `artifacts.problems` stands for the value (`got: …`), which is not cut. The form is for refusals: what an
`Interrupted` or a `NumericsError` has to say of its step is put as it needs. The entry points print it as one sentence
and exit with `EXIT_STATUS`; a traceback is only ever shown for a bug of ours.
"""

from __future__ import annotations

import errno

EXIT_STATUS = 2
"""Exit status of a command that was refused or failed with a `PipelineError`."""

EXIT_REQUEUE = 75
"""Exit status after SIGTERM, SIGHUP or SIGINT, what was finished being kept (`EX_TEMPFAIL`): run the command again."""

SIZE_LIMIT = "the limit on a file's size (ulimit -f)"
"""What the system means by `File too large`."""

GPU_WITHOUT_MEMORY = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # memory that is mapped as it grows
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # its workspace did not fit
)
"""What drivers and libraries say where torch's allocator does not say it by its own class."""


SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}
"""Of which a file that cannot be read now may be read later, beside memory's."""


class PipelineError(Exception):
    """Base of every error that is the user's to read."""


class ConfigError(PipelineError, ValueError):
    """A configuration value breaks a rule."""


class DataError(PipelineError, ValueError):
    """An input file, collection or row cannot be used."""


class HubError(PipelineError):
    """A model or data set cannot be had from the hub."""


class ModelError(PipelineError, ValueError):
    """A model folder cannot be loaded as a cross-encoder."""


class ArtifactError(PipelineError):
    """A file of ours is missing, torn or altered."""


class NumericsError(PipelineError, ArithmeticError):
    """A loss, gradient, weight or score is not finite."""


class ResourceError(PipelineError):
    """Disk, memory or a device is not enough."""


class Interrupted(PipelineError):
    """SIGTERM, SIGHUP or SIGINT arrived and the work so far is saved."""


def changed(thing: str) -> DataError:
    """The refusal of an input that changed between being named by its content and being read."""
    return DataError(
        must(thing, "stay as it was while a run reads it", "another content", "Run the same command again.")
    )


def one_file(key: str) -> str:
    """The remedy where a key that names one file is given several, or a pattern."""
    return f"{key} names one file: concatenate several into one."


def out_of_gpu_memory(error: Exception) -> bool:
    """Whether a GPU had no memory left, for a tensor or for what its libraries take beside torch's allocator."""
    by_torch = type(error).__name__ == "OutOfMemoryError"  # no torch here: a mistyped key is answered without it
    said = str(error)
    # What torch fails with where it cannot ask the driver who holds the memory, while it composes the error above.
    in_composing = "NVML_SUCCESS" in said and "CUDACachingAllocator" in said
    return by_torch or in_composing or any(text in said for text in GPU_WITHOUT_MEMORY)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, a GPU's, torch's or a library's words for the system's."""
    if isinstance(error, OSError | RuntimeError):
        said = str(error).lower()
        return out_of_gpu_memory(error) or "can't allocate memory" in said or "cannot allocate memory" in said
    return isinstance(error, MemoryError)


def raise_shortage(error: BaseException) -> None:
    """Raise what an error is, or was caused by, where memory, disk or open files ran out: no fault of what was read."""
    found: BaseException | None = error
    seen = set[int]()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if out_of_memory(found) or (isinstance(found, OSError) and found.errno in SHORTAGES):
            raise found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, and the next one where it announces that (`…:`).

    The name of its class where it says nothing.
    """
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {others[0]}" if first.endswith(":") and others else first


def one_line(error: BaseException) -> str:
    """All that an error says, on one line; the name of its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def named(error: BaseException) -> str:
    """The class of an error and its first line, for one whose words may need it; the class alone where it has none."""
    said, kind = first_line(error), type(error).__name__
    return kind if said == kind else f"{kind}: {said}"


def must(thing: str, rule: str, got: object, remedy: str) -> str:
    """The one sentence form of every refusal.

    `got` is printed as it stands, up to 200 characters: a caller quotes a value that the user gave or a file holds
    (`repr(value)`), and describes anything else plainly (`nothing there`, `3 labels in <folder>`). Of what another
    library says, a full stop at its end is left out and characters that do not print are escaped.
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(got).removesuffix("."))
    if len(shown) > 200:
        shown = shown[:200] + "…"
    return f"{thing} must {rule}, got {shown}. {remedy}"
