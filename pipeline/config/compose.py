"""Run a job from a command line: compose, parse once, run, and turn every error into one sentence and a status.

Only this module, `schema` and `refusals` know Hydra. This module knows nothing of what a job does.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import logging.config
import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.argument_parser import described, keys, parse_arguments
from pipeline.config.ending import EXIT_BUG, ended, log, report, unusable
from pipeline.config.refusals import refusal
from pipeline.config.schema import LOGS, Config, parse, register
from pipeline.core import console
from pipeline.core.credentials import masked_command
from pipeline.core.errors import EXIT_REQUEUE, ConfigError, must

T = TypeVar("T")

CONF = Path(__file__).resolve().parents[2] / "conf"
"""The configuration folder beside the package."""


def application(job: Callable[[Config], object]) -> Callable[[], None]:
    """Return a command over `conf/`: Hydra's command line, with the pipeline's errors and exit statuses.

    The job gets the parsed configuration and may return a line that says how it went. Its folder in `outputs_dir/logs/`
    is named after the file that defines `job`, and credentials in its log are masked. In a multirun (`-m`) a failing
    job does not stop the others, and a table of the jobs is printed at the end.

    Exit status: 0; `EXIT_STATUS` for errors that the user can correct; `EXIT_REQUEUE` after SIGTERM, SIGHUP or SIGINT;
    `EXIT_BUG` for an unexpected error, whose traceback is in the log; `EXIT_UNREAD` when nobody reads what is printed.
    """
    home = (socket.gethostname(), os.getpid())
    failures: list[int] = []
    ran: list[tuple[list[str], str]] = []

    @functools.wraps(job)
    def one_job(values: DictConfig) -> object:
        _quiet()
        here = HydraConfig.get()
        _remove_copy(here.sweep.dir)
        log_path = Path(here.runtime.output_dir) / f"{here.job.name}.log"
        if here.mode is RunMode.MULTIRUN:
            sys.argv[1:] = here.overrides.task  # the recorded command is this job's, not the whole sweep's
        try:
            log.info("command: %s", " ".join(masked_command(list(here.overrides.task))))
            said = job(parse(values))
            ran.append((here.overrides.task, str(said or "done")))
            return said
        except Exception as error:
            if isinstance(error, OmegaConfBaseException):  # `${x}` in a value is resolved only when it is read
                error = refusal(error, sys.argv[1:])
            status = report(error, log_path)
            if status == EXIT_REQUEUE:
                raise SystemExit(status) from None
            if here.mode is RunMode.MULTIRUN and (socket.gethostname(), os.getpid()) != home:
                raise  # A launcher's worker: only an exception reports the failure to the process that waits for it.
            failures.append(status)
            ran.append((here.overrides.task, f"failed with status {status}"))
            return None

    def main() -> None:
        register()
        with ended(), _unwrapped():
            sys.argv[1:] = map(quoted, sys.argv[1:])
            try:
                hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(one_job)()
            except (HydraException, OmegaConfBaseException) as error:
                raise refusal(error, sys.argv[1:]) from None
            except FileNotFoundError as error:  # no log folder: errors of jobs are reported above
                raise unusable(error) from error
            finally:
                with contextlib.suppress(OSError):
                    for folder in LOGS:  # from a sweep that was refused before its first job
                        _remove_copy(folder)
            if len(ran) > 1:
                print("\n".join(["", *_jobs(ran)]))
                if failures:
                    console.say(f"error: {len(failures)} of {len(ran)} jobs failed.")
            if failures:
                raise SystemExit(max(failures) if EXIT_BUG not in failures else EXIT_BUG)

    return main


def application_with(schema: type[T], job: Callable[[T, Config], object]) -> Callable[[], None]:
    """Return an `application` with arguments of its own: those named by the schema; all others are Hydra's."""

    def run() -> None:
        own = [word for word in sys.argv[1:] if word.partition("=")[0] in keys(schema)]
        with ended():
            if {"-h", "--help"} & set(sys.argv[1:]):
                print(
                    f"{sys.modules['__main__'].__doc__}\n\n{described(schema)}\n\n"
                    "All keys of train.py --help are accepted too."
                )
                return
            asked = parse_arguments(schema, own)
        sys.argv[1:] = [word for word in sys.argv[1:] if word not in own]

        @functools.wraps(job)
        def configured(config: Config) -> object:
            return job(asked, config)

        application(configured)()

    return run


def command(schema: type[T], job: Callable[[T], object]) -> Callable[[], None]:
    """Return a command with `key=value` arguments of its own, read by `parse_arguments`; errors as in `application`."""

    def run() -> None:
        with ended():
            if {"-h", "--help"} & set(sys.argv[1:]):
                print(f"{sys.modules['__main__'].__doc__}\n\n{described(schema)}")
                return
            _quiet()
            job(parse_arguments(schema, sys.argv[1:]))

    return run


def composed(overrides: list[str]) -> Config:
    """Return the configuration that a command line of these overrides composes; within an `application` too.

    Raises:
        ConfigError: when it breaks a rule, or cannot be composed.
    """
    register()
    try:
        with contextlib.ExitStack() as started:
            if not GlobalHydra.instance().is_initialized():
                started.enter_context(hydra.initialize_config_dir(config_dir=str(CONF), version_base="1.3"))
            return parse(hydra.compose("config", [quoted(word) for word in overrides]))
    except (HydraException, OmegaConfBaseException) as error:
        raise refusal(error, overrides) from None


def _remove_copy(folder: str) -> None:
    """Remove Hydra's copy of a sweep's configuration, in which credentials are not masked."""
    Path(folder, "multirun.yaml").unlink(missing_ok=True)


def _jobs(ran: list[tuple[list[str], str]]) -> list[str]:
    """Return a line per job of a multirun: the overrides that not all jobs share, and how the job went."""
    common = set[str].intersection(*(set(overrides) for overrides, _ in ran))
    own = [" ".join(word for word in overrides if word not in common) for overrides, _ in ran]
    width = max(map(len, own))
    return [f"{words:<{width}}  {said}" for words, (_, said) in zip(own, ran, strict=True)]


def quoted(word: str) -> str:
    """Quote an override's value if Hydra's grammar requires it, as for a path with spaces or non-ASCII letters.

    The override stays unchanged if its value has characters with a meaning: quotes, brackets, commas, `$`, backslashes.

    Raises:
        ConfigError: when the override names no key, on which Hydra's own parser crashes.
    """
    key, equals, value = word.partition("=")
    if equals and not key.strip("+~"):
        raise ConfigError(must("an argument", "read key=value", repr(word), "Name the key before the '='."))
    if word.startswith("-") or not equals or set(value) & set("\"'\\,[]{}()$"):
        return word
    parser = OverridesParser.create()
    for candidate in (word, f'{key}="{value}"'):
        with contextlib.suppress(HydraException):
            parser.parse_override(candidate)
            return candidate
    return word


def keep_log(outputs_dir: str, name: str) -> Path:
    """Set up logging as Hydra does for an `application`, to console and file; return the path of the file."""
    folder = Path(outputs_dir) / "logs" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{name}"
    try:
        folder.mkdir(parents=True)
    except FileNotFoundError as error:
        raise unusable(error) from error
    place = {"hydra": {"runtime": {"output_dir": str(folder)}, "job": {"name": name}}}
    settings = OmegaConf.merge(place, {"log": OmegaConf.load(CONF / "hydra" / "job_logging" / "plain.yaml")})
    values = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    logging.config.dictConfig(values["log"])
    return folder / f"{name}.log"


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Let exceptions leave Hydra unchanged: by default it prints them in its own way and exits with status 1."""
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
    """Send Python's warnings to the log file; show other libraries' progress bars on a terminal only."""
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log file on a full disk must not print tracebacks
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
