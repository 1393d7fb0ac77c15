"""However a command ends, its user reads one sentence, its caller gets a status, and the log keeps the traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_script import job_command, run_job

INTERRUPTED = "interrupted: finished work is kept. Run the same command again to continue."
BUG = "error: this is a bug in the pipeline "

ENDINGS = {
    "refused": (2, "error: pairs.jsonl must hold rows, got none. Write some. (log: outputs/logs/"),
    "saved_and_interrupted": (75, "interrupted: step 7 is saved. Run the same command again. (log: outputs/logs/"),
    "ctrl_c": (75, INTERRUPTED),
    "sigterm": (75, INTERRUPTED),
    "sighup": (75, INTERRUPTED),
    "bug": (1, f"{BUG}(KeyError: 'surprise'). Please report it with the traceback in out"),
    "missing_file": (1, f"{BUG}(FileNotFoundError: "),
    "missing_output": (1, f"{BUG}(FileNotFoundError: "),
    "removed_folder": (
        2,
        "error: outputs/mined/x must exist, got no such folder. If it was removed meanwhile, run the same ",
    ),
    "folder_for_a_file": (2, "error: outputs/latest must be a file, got a folder. Move it away "),
    "disk_full": (2, "error: outputs/x must be usable, got No space left on device. Free space, "),
    "stale_handle": (2, "error: outputs/x must be usable, got Stale file handle. Free space, "),
    "file_too_large": (
        2,
        "error: a file or standard output must be within the limit on a file's size (ulimit -f), got File too ",
    ),
    "no_temporary_folder": (
        2,
        "error: temporary files must have a folder, got No usable temporary directory found in ['/nowhere']. ",
    ),
    "open_files": (
        2,
        "error: the system must allow as many open files as are needed, got Too many open files. Raise ",
    ),
    "processes": (
        2,
        "error: the system must let a process start or continue, got Resource temporarily unavailable. Lower ",
    ),
    "threads": (
        2,
        "error: the system must allow as many threads as are asked for, got can't start new thread. ",
    ),
    "memory_of_python": (2, "error: memory must suffice, got MemoryError. Free some, "),
    "memory_of_torch": (2, "error: memory must suffice, got "),
    "memory_of_the_system": (2, "error: memory must suffice, got [Errno 12] Cannot allocate memory. Free some, "),
    "gpu_driver": (2, "error: the GPU's driver must work, got CUDA driver error: unknown error. Update the driver, "),
}
"""How the job ends → its exit status and the start of its line on standard error."""


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_one_line_and_a_status(tmp_path: Path, ending: str) -> None:
    status, start = ENDINGS[ending]
    done = run_job(tmp_path, f"name={ending}")
    assert done.returncode == status
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1, "one line"
    assert "Traceback" not in done.stdout + done.stderr


def test_traceback_of_a_bug_is_in_the_log(tmp_path: Path) -> None:
    done = run_job(tmp_path, "name=bug")
    log = (tmp_path / done.stderr.rstrip().rpartition(" in ")[2]).read_text()
    assert "Traceback" in log and "KeyError: 'surprise'" in log


def test_traceback_of_a_bug_is_shown_if_no_log_can_hold_it(tmp_path: Path) -> None:
    done = run_job(tmp_path, "name=bug_without_outputs")
    assert done.returncode == 1
    *above, last = done.stderr.splitlines()
    assert above[0] == "Traceback (most recent call last):" and above[-1] == "KeyError: 'surprise'"
    assert "Please report it with the traceback in the lines above (no file could hold it: [Errno 2]" in last


def test_removed_current_folder_is_refused(tmp_path: Path) -> None:
    _, script = job_command(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {sys.executable} {tmp_path / script}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: the current folder must exist, got a removed one ({gone}). Change to another folder (cd).\n"
    )


def test_sighup_is_ignored_under_nohup(tmp_path: Path) -> None:
    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    words = job_command(tmp_path, "name=sighup")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, preexec_fn=ignoring)
    assert (done.returncode, done.stdout) == (0, "job sighup\ndone\n")


# Standard output and standard error


@pytest.mark.parametrize(
    ("ending", "status"),
    [("prints_more_than_a_pipe_holds", 141), ("prints_a_line", 141), ("refused", 2), ("saved_and_interrupted", 75)],
)
def test_output_that_nobody_reads_ends_the_job_quietly(tmp_path: Path, ending: str, status: int) -> None:
    words = job_command(tmp_path, f"name={ending}")
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == status
    assert errors.count("\n") == (status != 141) and "Broken" not in errors


@pytest.mark.parametrize("number", [1, 2], ids=["stdout", "stderr"])
def test_closed_stream_does_not_stop_the_job(tmp_path: Path, number: int) -> None:
    """And no file gets its number: what a library in C says there would land in the file."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = job_command(tmp_path, *arguments)
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, preexec_fn=lambda: os.close(number))

    done, refused = run(), run("name=refused")
    assert (done.returncode, done.stdout, done.stderr) == (0, "" if number == 1 else "job unnamed\ndone\n", "")
    assert refused.returncode == 2 and refused.stderr.count("error: pairs.jsonl") == (number == 1)


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("ending", ["prints_a_line", "prints_more_than_a_pipe_holds"])
def test_standard_output_on_a_full_disk_is_refused(tmp_path: Path, ending: str, buffered: bool) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            job_command(tmp_path, f"name={ending}"), cwd=tmp_path, env=environment, stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    named = "standard output must accept what is printed" if buffered else "a file or standard output must be usable"
    assert done.stderr.startswith(f"error: {named}, got No space left on device. ")


@pytest.mark.parametrize(
    ("ending", "status"), [("unnamed", 0), ("refused", 2), ("saved_and_interrupted", 75), ("bug", 1)]
)
def test_standard_error_on_a_full_disk_changes_no_status(tmp_path: Path, ending: str, status: int) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(job_command(tmp_path, f"name={ending}"), cwd=tmp_path, stderr=full)
    assert done.returncode == status
