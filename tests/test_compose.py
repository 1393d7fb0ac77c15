"""The real command line, as a user meets it: one sentence, a status, a log; never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.compose import keep_log
from pipeline.core.errors import ResourceError

JOB = """
import logging, os, sys, warnings
from pipeline.config.compose import application
from pipeline.config.schema import Config
from pipeline.core.errors import DataError, Interrupted

def main(config: Config) -> None:
    log = logging.getLogger("pipeline.job")
    log.info("seed %d", config.seed)
    logging.getLogger("noisy.library").warning("a library's line")
    warnings.warn("a library's warning")
    match config.seed:
        case 1: raise DataError("pairs.jsonl must hold rows,\\ngot none. Write some.")
        case 2: raise Interrupted("step 7 is saved. Run the same command again.")
        case 3: raise KeyError("surprise")
        case 4: raise KeyboardInterrupt
        case 5: raise OSError(28, "No space left on device", "outputs/x")
        case 6: raise FileNotFoundError(2, "No such file or directory", "gone")
        case 10: bytearray(2**62)
        case 11:
            import torch
            torch.empty(2**50)
        case 17: print("a long line " * 100_000)
        case 18: print("a line")
        case 16: raise RuntimeError("can't start new thread")  # as threading.Thread.start says it
        case 19: raise RuntimeError("CUDA driver error: unknown error")
        case 9: os.kill(os.getpid(), 15)
        case 20: os.kill(os.getpid(), 1)
        case 21: raise IsADirectoryError(21, "Is a directory", ".latest.1.partial", None, "outputs/latest")
        case 23: open("outputs/mined/x/texts.arrow")
        case 24: open("outputs/of-ours")
        case 25:
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))
            open("job.py")
        case 26: raise BlockingIOError(11, "Resource temporarily unavailable")
        case 27: raise OSError(12, "Cannot allocate memory")
        case 28:
            import tempfile
            tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
            tempfile.gettempdir()
        case 29: raise OSError(116, "Stale file handle", "outputs/x")
        case 30:
            import shutil
            shutil.rmtree("outputs")
            raise KeyError("surprise")
        case 22: raise OSError(27, "File too large")
        case 31: raise DataError(f"data.path must be a file, got {config.data.path!r}. Correct it.")
        case 32: raise KeyError(config.data.path)
        case 14 | 15: log.info("recorded %s", sys.argv[1:])
    log.info("done")

if __name__ == "__main__":
    application(main)()
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return path


def call(script: Path, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"} | changed
    return subprocess.run(
        [sys.executable, str(script), *arguments], cwd=script.parent, env=environment, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where the tests run under nohup
    )  # fmt: skip


def test_a_good_run_shows_our_lines_alone_and_logs_everything(job: Path) -> None:
    done = call(job, "outputs_dir=here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "seed 12\ndone\n", "")
    (folder,) = (job.parent / "here" / "logs").iterdir()  # a relative outputs_dir is the caller's
    assert folder.name.endswith("-job")
    written = (folder / "job.log").read_text()
    for line in ("INFO pipeline.job: seed 12", "noisy.library: a library's line", "a library's warning", "outputs_dir"):
        assert line in written
    assert {path.name for path in job.parent.iterdir()} == {"job.py", "here"}


@pytest.mark.parametrize(
    ("seed", "status", "said"),
    [
        (1, 2, "error: pairs.jsonl must hold rows, got none. Write some. (log: outputs/logs/"),
        (2, 75, "interrupted: step 7 is saved. Run the same command again. (log: outputs/logs/"),
        (
            3,
            1,
            "error: this is a bug in the pipeline (KeyError: 'surprise'). Please report it with the traceback in out",
        ),
        (4, 75, "interrupted: finished work is kept. Run the same command again to continue."),
        (9, 75, "interrupted: finished work is kept. Run the same command again to continue."),
        (20, 75, "interrupted: finished work is kept. Run the same command again to continue."),
        (21, 2, "error: outputs/latest must be a file, got a folder. Move it away "),
        (
            22,
            2,
            "error: a file or standard output must be within the limit on a file's size (ulimit -f), got File too ",
        ),
        (10, 2, "error: memory must suffice, got MemoryError. Free some, "),
        (11, 2, "error: memory must suffice, got "),
        (16, 2, "error: the system must allow as many threads as are asked for, got can't start new thread. "),
        (19, 2, "error: the GPU's driver must work, got CUDA driver error: unknown error. Update the driver, "),
        (23, 2, "error: outputs/mined/x must exist, got no such folder. If it was removed meanwhile, run the same "),
        (24, 1, "error: this is a bug in the pipeline (FileNotFoundError: "),
        (25, 2, "error: the system must allow as many open files as are needed, got Too many open files. Raise "),
        (26, 2, "error: the system must let a process start or continue, got Resource temporarily unavailable. Lower "),
        (27, 2, "error: memory must suffice, got [Errno 12] Cannot allocate memory. Free some, "),
        (28, 2, "error: temporary files must have a folder, got No usable temporary directory found in ['/nowhere']. "),
        (29, 2, "error: outputs/x must be usable, got Stale file handle. Free space, "),
        (5, 2, "error: outputs/x must be usable, got No space left on device. Free space, "),
        (6, 1, "error: this is a bug in the pipeline (FileNotFoundError: "),
    ],
)
def test_every_ending_is_one_line_and_a_status(job: Path, seed: int, status: int, said: str) -> None:
    done = call(job, f"seed={seed}")
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1, "one line"
    assert "Traceback" not in done.stdout + done.stderr
    if seed == 3:
        log = job.parent / done.stderr.rstrip().rpartition(" in ")[2]
        assert "Traceback" in log.read_text() and "KeyError: 'surprise'" in log.read_text()


@pytest.mark.parametrize("words", [["seed=12"], ["seed=31"], ["seed=32"], ["-m", "seed=7,31,32"]], ids=" ".join)
def test_no_credential_stands_below_logs(job: Path, words: list[str]) -> None:
    secret = ["note=hf_abcdefghijklmnop", "data=local", "data.path=https://user:pw@host/x.jsonl"]
    call(job, *words, *secret, "outputs_dir=here")
    files = [path for path in (job.parent / "here" / "logs").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"job.log"} and len(files) == (3 if "-m" in words else 1)
    for path in files:
        written = path.read_text()
        assert "note=***" in written and "://***@host/x.jsonl" in written
        assert "hf_abc" not in written and "pw" not in written
        assert ("Traceback" in written) == ("seed=12" not in written and "seed=7" not in written)


def test_a_sweep_that_is_refused_leaves_no_credential_either(job: Path) -> None:
    (of_another := job.parent / "here" / "logs" / "x-multirun" / "multirun.yaml").parent.mkdir(parents=True)
    of_another.write_text("seed: 1")
    done = call(job, "-m", "seed=abc,2", "note=hf_abcdefghijklmnop", "outputs_dir=here")
    assert done.returncode == 2 and "seed must be a whole number" in done.stderr
    assert of_another.is_file() and len(list(of_another.parents[1].iterdir())) == 2
    assert call(job, "-m", "seed=7,12", "note=hf_abcdefghijklmnop", "hydra.sweep.dir=own").returncode == 0
    assert not [path for path in job.parent.rglob("*") if path.is_file() and b"hf_abc" in path.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["training.batch_sze=3"], "error: training.batch_sze must be a key of the configuration, "),
        (["model=nope"], "error: model must be one of bert_tiny, "),
        (["=5"], "error: an argument must read key=value, got '=5'. Name the key "),
        (["seed=many"], "error: seed must be a whole number, got 'many'. "),
        (["-m", "seed=1,2", "model=nope"], "error: model must be one of bert_tiny, "),
    ],
)
def test_a_mistake_is_answered_before_anything_is_written(job: Path, arguments: list[str], said: str) -> None:
    done = call(job, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1
    assert [path.name for path in job.parent.iterdir()] == ["job.py"]


def test_a_value_that_names_no_key_is_refused(job: Path) -> None:
    done = call(job, "data.path='${x}.jsonl'")
    assert done.returncode == 2
    assert done.stderr.startswith("error: a value with ${…} must name a key, got Interpolation key 'x' not found. ")
    assert done.stderr.count("\n") == 1
    assert call(job, "data.path='\\${x}.jsonl'").returncode == 0


@pytest.mark.parametrize(
    ("seed", "status"),
    [(17, 141), (18, 141), (1, 2), (2, 75)],
    ids=["more than a pipe holds", "one line", "refused", "interrupted"],
)
def test_output_that_nobody_reads_to_its_end_ends_quietly(job: Path, seed: int, status: int) -> None:
    words = [sys.executable, str(job), f"seed={seed}"]
    with subprocess.Popen(words, cwd=job.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == status
    assert said.count("\n") == (status != 141) and "Broken" not in said


@pytest.mark.parametrize("number", [1, 2])
def test_a_closed_stream_is_no_reason_to_stop(job: Path, number: int) -> None:
    """And no file gets its number: what a library in C says there would land in the file."""
    words = [sys.executable, str(job)]
    done = subprocess.run(words, cwd=job.parent, capture_output=True, text=True, preexec_fn=lambda: os.close(number))
    assert (done.returncode, done.stdout, done.stderr) == (0, "" if number == 1 else "seed 12\ndone\n", "")
    refused = subprocess.run(
        [*words, "seed=1"], cwd=job.parent, capture_output=True, text=True, preexec_fn=lambda: os.close(number)
    )
    assert refused.returncode == 2 and refused.stderr.count("error: pairs.jsonl") == (number == 1)


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("seed", [18, 17])
def test_standard_output_on_a_full_disk_is_named(job: Path, seed: int, buffered: bool) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, str(job), f"seed={seed}"], cwd=job.parent, env=environment, stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    named = "standard output must accept what is printed" if buffered else "a file or standard output must be usable"
    assert done.stderr.startswith(f"error: {named}, got No space left on device. ")


@pytest.mark.parametrize(("seed", "status"), [(12, 0), (1, 2), (2, 75), (3, 1)])
def test_standard_error_on_a_full_disk_changes_no_status(job: Path, seed: int, status: int) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, str(job), f"seed={seed}"], cwd=job.parent, stderr=full)
    assert done.returncode == status


def test_a_closed_terminal_is_nothing_to_a_command_under_nohup(job: Path) -> None:
    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    words = [sys.executable, str(job), "seed=20"]
    done = subprocess.run(words, cwd=job.parent, capture_output=True, text=True, preexec_fn=ignoring)
    assert (done.returncode, done.stdout) == (0, "seed 20\ndone\n")


def test_in_a_multirun_the_other_jobs_go_on(job: Path) -> None:
    done = call(job, "-m", "seed=7,1,8", "outputs_dir=here")
    assert done.stdout.endswith("\n\nseed=7  done\nseed=1  failed with status 2\nseed=8  done\n")
    assert done.returncode == 2
    assert [line for line in done.stdout.splitlines() if line.startswith("seed ")] == ["seed 7", "seed 1", "seed 8"]
    first, second = done.stderr.splitlines()
    assert first.startswith("error: pairs.jsonl must hold rows, got none. Write some. (log: here/logs/")
    assert second == "error: 1 of 3 jobs failed."
    (folder,) = (job.parent / "here" / "logs").iterdir()
    assert sorted(path.parent.name for path in folder.rglob("job.log")) == ["0", "1", "2"]


def test_a_job_of_a_multirun_records_a_command_of_its_own(job: Path) -> None:
    done = call(job, "-m", "seed=14,15", "outputs_dir=here")
    recorded = [line for line in done.stdout.splitlines() if line.startswith("recorded")]
    assert recorded == ["recorded ['seed=14', 'outputs_dir=here']", "recorded ['seed=15', 'outputs_dir=here']"]


def test_an_interrupted_job_ends_a_multirun(job: Path) -> None:
    done = call(job, "-m", "seed=7,2,8")
    assert done.returncode == 75
    assert "seed 8" not in done.stdout


def test_a_bug_is_shown_with_its_traceback_where_the_folder_of_the_log_is_gone(job: Path) -> None:
    done = call(job, "seed=30")
    assert done.returncode == 1
    *above, last = done.stderr.splitlines()
    assert above[0] == "Traceback (most recent call last):" and above[-1] == "KeyError: 'surprise'"
    assert "Please report it with the traceback in the lines above (no file could hold it: [Errno 2]" in last


@pytest.mark.parametrize("words", [[], ["-m", "seed=7,8"]])
def test_an_outputs_dir_that_is_no_text_is_refused_before_it_is_made(job: Path, words: list[str]) -> None:
    done = call(job, *words, os.fsdecode(b"outputs_dir=caf\xe9"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "error: outputs_dir must be text in UTF-8, got 'caf\\udce9'. Use a folder with another "
    )
    assert [path.name for path in job.parent.iterdir()] == ["job.py"]


def test_a_current_folder_that_was_removed_is_named(job: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {sys.executable} {job}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: the current folder must exist, got a removed one ({gone}). Change to another folder (cd).\n"
    )


def test_an_unwritable_outputs_dir_is_one_sentence(job: Path) -> None:
    (job.parent / "file").write_text("")
    done = call(job, "outputs_dir=file")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["outputs_dir="], ["outputs_dir=' '"], ["-m", "seed=7,8", "outputs_dir="]])
def test_an_empty_outputs_dir_is_no_folder_of_the_root(job: Path, words: list[str]) -> None:
    before = os.listdir("/")
    done = call(job, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: outputs_dir must be a folder, got '") and done.stderr.count("\n") == 1
    assert os.listdir("/") == before
    assert [path.name for path in job.parent.iterdir()] == ["job.py"]


@pytest.mark.parametrize("words", [[], ["-m", "seed=7,8"]])
def test_an_outputs_dir_that_links_to_nothing_is_said_to_do_so(job: Path, words: list[str]) -> None:
    (job.parent / "link").symlink_to("gone")
    done = call(job, *words, "outputs_dir=link")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "link must be usable, got a link to nothing (gone). Make the folder it links to, or pass " in done.stderr


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(job: Path) -> None:
    done = call(job, "outputs_dir=/proc/x")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: /proc/x must be usable, got No such file or directory. Free space, ")
    with pytest.raises(ResourceError, match=r"^/proc/x must be usable, got No such file or directory\."):
        keep_log("/proc/x", "job")


@pytest.mark.parametrize("words", [[], ["-m", "seed=7,8"]])
def test_the_home_folder_is_expanded_before_a_log_is_kept(job: Path, words: list[str]) -> None:
    for folder in ("outputs_dir='~/here'", "outputs_dir=~/there"):
        assert call(job, *words, folder, HOME=str(job.parent / "home")).returncode == 0
    for name in ("here", "there"):
        assert len(list((job.parent / "home" / name / "logs").iterdir())) == 1
    assert {path.name for path in job.parent.iterdir()} == {"job.py", "home"}


def test_brackets_are_the_users_to_quote(job: Path) -> None:
    done = call(job, "outputs_dir=a(1)")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: an argument must read key=value, got 'outputs_dir=a(1)'. Give the value its own quotes"
    )


def test_hydras_own_flags_still_work(job: Path) -> None:
    assert "== Configuration groups ==" in call(job, "--help").stdout
    shown = call(job, "experiment=smoke", "--cfg", "job")
    assert shown.returncode == 0 and "max_steps: 60" in shown.stdout and shown.stderr == ""


@pytest.mark.parametrize("name", ["train", "mine", "evaluate", "card"])
def test_a_script_refuses_before_it_loads_torch(root: Path, tmp_path: Path, name: str) -> None:
    code = f"""
import runpy, sys
sys.argv = ["scripts/{name}.py", "training.batch_sze=1"]
try:
    runpy.run_path("scripts/{name}.py", run_name="__main__")
except SystemExit as left:
    assert left.code == 2, left.code
    assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Did you mean training.batch_size?" in done.stderr
