"""The hub client's cache: only the files wanted, each verified before it is used, damaged ones fetched again."""

from __future__ import annotations

from pathlib import Path

from hub_client import FILES, HubUser, content

DAMAGES = [(name, how) for name in ("model.safetensors", "config.json") for how in ("truncated", "altered", "removed")]


def test_safetensors_are_preferred_to_pickles_and_code_is_never_fetched(hub_user: HubUser) -> None:
    unwanted = {name: b"x" for name in ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "modeling_x.py")}
    hub_user.hub.commit("model", "acme/both", {**FILES, **unwanted})
    pickled = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    pickled["pytorch_model.bin"] = b"pickle"
    hub_user.hub.commit("model", "acme/pickle", pickled)
    both, pickle = hub_user.locate({"path": "acme/both"}, {"path": "acme/pickle"})
    assert content(both["folder"]) == FILES
    assert content(pickle["folder"]) == pickled

    def requests(repository: str, name: str) -> list[str]:
        lines = hub_user.hub.requests
        return [line for line in lines if f"/{repository}/resolve/" in line and line.endswith(f"/{name}")]

    assert all(requests("both", name) for name in FILES) and requests("pickle", "pytorch_model.bin")
    assert not any(requests("both", name) for name in unwanted)
    assert "acme/pickle has pickled weights only" in hub_user.logs[0] and "weights_only" in hub_user.logs[0]
    assert "acme/both has pickled" not in hub_user.logs[0]


def test_damaged_files_are_fetched_again_or_refused_offline(hub_user: HubUser) -> None:
    cases = [{"path": f"acme/{number}"} for number in range(len(DAMAGES))]
    for case in cases:
        hub_user.hub.commit("model", case["path"], FILES)
    first = hub_user.locate(*cases)
    for (name, how), result in zip(DAMAGES, first, strict=True):
        blob = (Path(result["folder"]) / name).resolve()
        if how == "truncated":
            blob.write_bytes(FILES[name][:-3])
        elif how == "altered":
            blob.write_bytes(b"#" + FILES[name][1:])
        else:
            blob.unlink()
    for case, offline in zip(cases, hub_user.locate(*cases, HF_HUB_OFFLINE="1"), strict=True):
        assert f"{case['path']}, not all of it cached" in offline["error"]
    mended = hub_user.locate(*cases)
    assert mended == first
    assert all(content(result["folder"]) == FILES for result in mended)


def test_files_cached_by_another_tool_are_verified_first(hub_user: HubUser) -> None:
    hub_user.hub.commit("model", "acme/model", FILES)
    hub_user.locate({"path": "acme/model"})
    hub_user.lock.unlink()
    found = Path(hub_user.locate({"path": "acme/model"}, HF_HUB_OFFLINE="1")[0]["folder"])
    hub_user.lock.unlink()
    (found / "model.safetensors").resolve().write_bytes(b"#" + FILES["model.safetensors"][1:])
    (mended,) = hub_user.locate({"path": "acme/model"})
    assert content(mended["folder"]) == FILES


def test_file_name_that_leads_out_of_the_repository_is_refused(hub_user: HubUser) -> None:
    victim = hub_user.root / "home" / "hub" / "victim.json"
    victim.parent.mkdir(parents=True)
    victim.write_text("{}", encoding="utf-8")
    hub_user.hub.commit("model", "acme/evil", {**FILES, "../../../victim.json": b"longer than the victim"})
    (refused,) = hub_user.locate({"path": "acme/evil"})
    assert "leads out of the repository" in refused["error"]
    assert victim.read_text(encoding="utf-8") == "{}"


def test_files_of_equal_content_are_fetched_once(hub_user: HubUser) -> None:
    files = {"a.parquet": b"x" * 5000, "b.parquet": b"x" * 5000, "c.txt": b"c"}
    hub_user.hub.commit("dataset", "owner/twins", files)
    hub_user.hub.play("GET *.parquet", "503", 1)  # keeps the lock of their one blob for the wait before the next try
    (found,) = hub_user.locate({"path": "owner/twins", "kind": "dataset"})
    (log,) = hub_user.logs
    assert content(found["folder"]) == files
    assert "fetching 2 files, 5.0 kB" in log and "trying again" in log
    assert "waiting for another process" not in log
