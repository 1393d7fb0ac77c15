"""A job of the pipeline's command line, run as a process: it logs, and ends as its configuration's `name` says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

JOB = """
import logging, os, sys, warnings
from pipeline.config.compose import application
from pipeline.config.schema import Config
from pipeline.core.errors import DataError, Interrupted

def main(config: Config) -> None:
    log = logging.getLogger("pipeline.job")
    log.info("job %s", config.name)
    logging.getLogger("noisy.library").warning("a library's line")
    warnings.warn("a library's warning")
    match config.name:
        case "refused": raise DataError("pairs.jsonl must hold rows,\\ngot none. Write some.")
        case "refused_path": raise DataError(f"data.path must be a file, got {config.data.path!r}. Correct it.")
        case "saved_and_interrupted": raise Interrupted("step 7 is saved. Run the same command again.")
        case "ctrl_c": raise KeyboardInterrupt
        case "sigterm": os.kill(os.getpid(), 15)
        case "sighup": os.kill(os.getpid(), 1)
        case "bug": raise KeyError("surprise")
        case "bug_with_path": raise KeyError(config.data.path)
        case "bug_without_outputs":
            import shutil
            shutil.rmtree("outputs")
            raise KeyError("surprise")
        case "missing_file": raise FileNotFoundError(2, "No such file or directory", "gone")
        case "missing_output": open("outputs/of-ours")
        case "removed_folder": open("outputs/mined/x/texts.arrow")
        case "folder_for_a_file":
            raise IsADirectoryError(21, "Is a directory", ".latest.1.partial", None, "outputs/latest")
        case "disk_full": raise OSError(28, "No space left on device", "outputs/x")
        case "stale_handle": raise OSError(116, "Stale file handle", "outputs/x")
        case "file_too_large": raise OSError(27, "File too large")
        case "no_temporary_folder":
            import tempfile
            tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
            tempfile.gettempdir()
        case "open_files":
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))
            open("job.py")
        case "processes": raise BlockingIOError(11, "Resource temporarily unavailable")
        case "threads": raise RuntimeError("can't start new thread")  # as threading.Thread.start says it
        case "memory_of_python": bytearray(2**62)
        case "memory_of_torch":
            import torch
            torch.empty(2**50)
        case "memory_of_the_system": raise OSError(12, "Cannot allocate memory")
        case "gpu_driver": raise RuntimeError("CUDA driver error: unknown error")
        case "prints_a_line": print("a line")
        case "prints_more_than_a_pipe_holds": print("a long line " * 100_000)
        case "arguments_1" | "arguments_2": log.info("arguments %s", sys.argv[1:])
    log.info("done")

if __name__ == "__main__":
    application(main)()
"""


def job_command(folder: Path, *arguments: str) -> list[str]:
    """Write `job.py` to the folder and return the command that runs it from there."""
    (folder / "job.py").write_text(JOB)
    return [sys.executable, "job.py", *arguments]


def run_job(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the job in the folder, with `environment` added to this process's own."""
    variables = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"} | environment
    return subprocess.run(
        job_command(folder, *arguments), cwd=folder, env=variables, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where the tests run under nohup
    )  # fmt: skip
