"""From a command line to a job: compose, parse once, run, and turn every error into one sentence and a status.

With `schema` the only module that knows Hydra. It knows nothing of what a job does.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import logging.config
import os
import re
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from pipeline.config.arguments import keys, near, parse_arguments, rule
from pipeline.config.schema import Config, parse, register, unknown_key
from pipeline.core.errors import EXIT_REQUEUE, EXIT_STATUS, ConfigError, Interrupted, PipelineError, ResourceError, must

T = TypeVar("T")

CONF = Path(__file__).resolve().parents[2] / "conf"
"""The configuration folder beside the package."""

EXIT_BUG = 1
"""Exit status after an error that is ours."""

# Not below `pipeline`, so its lines go to the log file and not to the console.
log = logging.getLogger("command")


def application(job: Callable[[Config], object]) -> Callable[[], None]:
    """A command over `conf/`: Hydra's command line, with our errors and exit statuses.

    The job gets the parsed configuration. Its folder under `outputs_dir/logs/` is named after the file `job` is
    defined in. In a multirun (`-m`) a failing job does not stop the others.

    Exit status: 0; `EXIT_STATUS` for whatever the user can mend; `EXIT_REQUEUE` after SIGTERM or SIGINT;
    `EXIT_BUG` for an unexpected error, whose traceback is in the log.
    """
    home = (socket.gethostname(), os.getpid())
    failures: list[int] = []
    ran: list[bool] = []

    @functools.wraps(job)
    def composed(values: DictConfig) -> object:
        ran.append(True)
        _quiet()
        here = HydraConfig.get()
        log_path = Path(here.runtime.output_dir) / f"{here.job.name}.log"
        if here.mode is RunMode.MULTIRUN:
            sys.argv[1:] = here.overrides.task  # what is recorded as its command makes this job, not the whole sweep
        try:
            log.info("command: %s", " ".join(here.overrides.task))
            return job(parse(values))
        except Exception as error:
            if isinstance(error, OmegaConfBaseException):  # `${x}` in a value is resolved only when it is read
                error = refusal(error, sys.argv[1:])
            status = _report(error, log_path)
            if status == EXIT_REQUEUE:
                raise SystemExit(status) from None
            if here.mode is RunMode.MULTIRUN and (socket.gethostname(), os.getpid()) != home:
                raise  # A launcher's worker: only an exception tells the process that waits for it.
            failures.append(status)
            return None

    def command() -> None:
        register()
        with _ended(), _unwrapped():
            hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(composed)()
            if len(ran) > 1 and failures:
                print(f"error: {len(failures)} of {len(ran)} jobs failed.", file=sys.stderr)
            if failures:
                raise SystemExit(max(failures) if EXIT_BUG not in failures else EXIT_BUG)

    return command


def application_with(schema: type[T], job: Callable[[T, Config], object]) -> Callable[[], None]:
    """An `application` that also has arguments of its own: those named by the schema; all others are Hydra's."""

    def run() -> None:
        own = [word for word in sys.argv[1:] if word.partition("=")[0] in keys(schema)]
        with _ended():
            asked = parse_arguments(schema, own)
        sys.argv[1:] = [word for word in sys.argv[1:] if word not in own]

        @functools.wraps(job)
        def configured(config: Config) -> object:
            return job(asked, config)

        application(configured)()

    return run


def command(schema: type[T], job: Callable[[T], object]) -> Callable[[], None]:
    """A command with `key=value` arguments of its own, read by `parse_arguments`; errors as in `application`."""

    def run() -> None:
        with _ended():
            if {"-h", "--help"} & set(sys.argv[1:]):
                print("\n".join(f"{name}=  {rule(hint)}" for name, hint in keys(schema).items()))
                return
            _quiet()
            job(parse_arguments(schema, sys.argv[1:]))

    return run


def composed(overrides: list[str]) -> Config:
    """The configuration that a command line of these overrides composes.

    Raises:
        ConfigError: when it breaks a rule, or does not compose.
    """
    register()
    try:
        with hydra.initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return parse(hydra.compose("config", overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise refusal(error, overrides) from None


def keep_log(outputs_dir: str, name: str) -> Path:
    """Set up logging as Hydra does for an `application`: console, and a file below `outputs_dir/logs`; its path."""
    folder = Path(outputs_dir) / "logs" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{name}"
    folder.mkdir(parents=True)
    place = {"hydra": {"runtime": {"output_dir": str(folder)}, "job": {"name": name}}}
    settings = OmegaConf.merge(place, {"log": OmegaConf.load(CONF / "hydra" / "job_logging" / "plain.yaml")})
    values = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    logging.config.dictConfig(values["log"])
    return folder / f"{name}.log"


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    """Turn whatever leaves the block into a line on standard error and an exit status; SIGTERM ends it like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept. Run the same command again to go on.", file=sys.stderr)
        raise SystemExit(EXIT_REQUEUE) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise SystemExit(_report(refusal(error, sys.argv[1:]))) from None
    except Exception as error:
        raise SystemExit(_report(error)) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Let exceptions leave Hydra as they are: without this it prints them its own way and exits 1."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _quiet() -> None:
    """Python's warnings go to the log file; other libraries' bars are shown on a terminal only."""
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log file on a full disk must not print tracebacks
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def _report(error: Exception, log_path: Path | None = None) -> int:
    """Print the one line about an error, keep its traceback in the log, return the exit status."""
    where = f" (log: {_short(log_path)})" if log_path else ""
    if isinstance(error, OSError) and not isinstance(error, PipelineError):
        error = _file_refusal(error)
    elif _is_memory(error):
        said = " ".join(str(error).split()) or type(error).__name__
        remedy = "Free some, use a smaller model or data.limit, or lower runtime.micro_batch_tokens."
        error = ResourceError(must("memory", "suffice", said, remedy)).with_traceback(error.__traceback__)
    if log_path and isinstance(error, PipelineError):
        log.error("stopped", exc_info=error)
    if isinstance(error, Interrupted):
        print(f"interrupted: {error}{where}", file=sys.stderr)
        return EXIT_REQUEUE
    if isinstance(error, PipelineError):
        print(f"error: {' '.join(str(error).split())}{where}", file=sys.stderr)
        return EXIT_STATUS
    kept = _keep_traceback(error, log_path)
    message = " ".join(str(error).split())[:200]
    print(
        f"error: this is a bug in the pipeline ({type(error).__name__}: {message}). "
        f"Please report it with the traceback in {kept}",
        file=sys.stderr,
    )
    return EXIT_BUG


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: Python's, torch's own class for a GPU, its words for a CPU."""
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_torch)


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
    remedy = "Free space, correct the permissions, or pass outputs_dir=<another folder>."
    refused = PipelineError(must(str(error.filename or "a file"), "be usable", error.strerror or "an error", remedy))
    refused.__cause__ = error
    return refused


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
        return _short(log_path)
    except OSError as problem:
        return f"no file: {problem}"


def _short(path: Path) -> str:
    """The path relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def refusal(error: Exception, overrides: list[str]) -> ConfigError:
    """What Hydra or OmegaConf refused, as one sentence with key, rule, value and remedy."""
    known = keys(Config)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            must(
                "an argument",
                "read key=value",
                error.override,
                "Put values with spaces, '=', ',' or quotes in quotes of their own: 'data.path=\"a=b.jsonl\"'.",
            )
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        choices = sorted(error.options)
        meant = near(option, choices)
        remedy = f"Did you mean {group}={meant[0]}?" if meant else f"Pass {group}=<one of them>."
        return ConfigError(must(group, f"be one of {', '.join(choices)}", option, remedy))
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    key = str(getattr(cause, "full_key", None) or "")
    given = {name.lstrip("+~"): value for name, equals, value in (o.partition("=") for o in overrides) if equals}
    if key in known and isinstance(cause, ValidationError):
        quoted = re.search(r"'(.*?)'", str(cause))
        got = given.get(key, quoted.group(1) if quoted else str(cause).splitlines()[0])
        return ConfigError(must(key, f"be {rule(known[key])}", got, f"Pass {key}=<value>{_source(error)}."))
    if key and key not in known and isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return unknown_key(key, _source(error))
    reason = str(error).splitlines()[0].rstrip(".")
    if isinstance(cause, InterpolationResolutionError):
        return ConfigError(must("a value with ${…}", "name a key", reason, "Write \\${ for the characters themselves."))
    return ConfigError(
        f"the command line must compose, got: {reason}. See the keys with --cfg job, and conf/ for the groups."
    )


def _source(error: Exception) -> str:
    """` (in conf/<file>.yaml)` where Hydra says that a file, not the command line, holds the value."""
    found = re.match(r"In '([^']+)'", str(error))
    return f" (in conf/{found.group(1)}.yaml)" if found else ""
