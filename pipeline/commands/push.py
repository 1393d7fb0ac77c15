"""Upload a finished run to the hub: its model and card, nothing else, and only if all their files verify.

Wraps huggingface_hub, which alone handles the token: it is neither read nor written here.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from pipeline.commands.run_folder import find_run
from pipeline.config.command_arguments import Publication
from pipeline.core.console import in_bytes, number_of, say
from pipeline.core.errors import ConfigError, HubError, must
from pipeline.hub.failures import LOG_IN, cause_of, is_of_xet, status_of
from pipeline.hub.repo_files import ABOUT_A_RUN
from pipeline.reporting.kept_comparison import card_of
from pipeline.reporting.model_card import of_repository
from pipeline.reporting.run_figures import require_finished

T = TypeVar("T")


def push(asked: Publication) -> str:
    """Upload a run and return the model's address.

    Raises:
        ConfigError: when `repo` is not a hub id.
        ArtifactError: when the run is incomplete, altered or was not evaluated.
        HubError: when the hub refuses or cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", asked.repo):
        raise ConfigError(must("repo", "read owner/name", repr(asked.repo), "Pass repo=<owner>/<name>."))
    if constants.is_offline_mode():
        raise HubError(must("HF_HUB_OFFLINE", "be unset to upload", "HF_HUB_OFFLINE=1", "Unset it and push again."))
    run = find_run(asked.run, asked.outputs_dir)
    require_finished(run)
    with tempfile.TemporaryDirectory() as place:
        folder = stage_files(run, asked.repo, Path(place))
        sizes = [path.stat().st_size for path in folder.iterdir()]
        say(f"uploading {run.name} to {asked.repo}: {number_of(len(sizes), 'file')}, {in_bytes(sum(sizes))}")
        try:
            api = HfApi()
            api.create_repo(asked.repo, private=asked.private, repo_type="model", exist_ok=True)
            done = _interruptible(
                lambda: api.upload_folder(
                    repo_id=asked.repo, folder_path=folder, repo_type="model", commit_message=f"Run {run.name}"
                )
            )
        except (HfHubHTTPError, httpx2.HTTPError, LocalTokenNotFoundError) as error:
            raise _refusal(asked.repo, error) from None
        except (OSError, RuntimeError) as error:
            # hf_xet raises a RuntimeError for what it has no class for; an error number is the system's.
            if getattr(error, "errno", None) is not None and not is_of_xet(error):
                raise
            raise _refusal(asked.repo, error) from None
    return f"{constants.ENDPOINT}/{asked.repo} at commit {done.oid}"


def _interruptible(action: Callable[[], T]) -> T:
    """Run `action` in a daemon thread and return its result.

    hf_xet handles no signal while it waits for a server: in the main thread, SIGTERM would wait for its last attempt.
    """
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(action())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result()


def stage_files(run: Path, repo: str, place: Path) -> Path:
    """Make the folder to upload: links to the model's own files, and the card with `repo` in its usage example."""
    folder = place / "upload"
    folder.mkdir()
    for path in sorted((run / "model").iterdir()):
        if path.is_file() and path.name not in ABOUT_A_RUN:
            (folder / path.name).symlink_to(path.resolve())
    card = of_repository(card_of(run), repo)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def _refusal(repo: str, error: Exception) -> HubError:
    status = status_of(error)
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        got = f"no permission (HTTP {status})" if status else "no login"
        return HubError(
            must(f"repo={repo}", "be a repository that you may write to", got, f"{LOG_IN[0].upper()}{LOG_IN[1:]}.")
        )
    return HubError(
        must(f"repo={repo}", "accept the upload", cause_of(error), "Push again: no partial upload remains.")
    )
