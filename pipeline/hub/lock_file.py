"""What is remembered of the hub beside the outputs: commits of names, and digests of files. One sealed JSON file.

Knows nothing of the hub, of its client or of what the files are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core.artifacts import is_sealed, sealed
from pipeline.core.atomic import locked, read_json, write_json
from pipeline.core.errors import ArtifactError, must
from pipeline.core.fingerprint import file_digest, file_state

LOCK = "hub.lock.json"
"""Below `outputs_dir`: which commit each name on the hub resolved to, and the digests of files."""

REMEMBER_FROM_BYTES = 32 * 2**20
"""Larger files are hashed once and remembered by what `file_state` says; smaller ones at every start."""

SECTIONS = {"commits", "files", "hashed"}


class LockFile:
    """`commits` by artefact, `files` by artefact and commit, `hashed` large files by path; sealed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, section: str, name: str) -> Any:
        """What is remembered under a name, None when nothing is.

        Raises:
            ArtifactError: when the file was altered or is not JSON.
        """
        return self._read().get(section, {}).get(name)

    def put(self, section: str, name: str, value: Any) -> None:
        """Remember a value, beside whatever another process has written meanwhile.

        Raises:
            ArtifactError: when the file was altered or is not JSON.
        """
        with locked(self.path):
            content = self._read()
            content.setdefault(section, {})[name] = value
            write_json(self.path, sealed({part: dict(sorted(content[part].items())) for part in sorted(content)}))

    def _read(self) -> dict[str, Any]:
        """The sections. A digit altered in one would silently name other weights: other keys, other results."""
        found = read_json(self.path) if self.path.exists() else {}
        if isinstance(found, dict):
            content = {name: part for name, part in found.items() if name != "seal"}
            # One without a seal is of an earlier version.
            if content.keys() <= SECTIONS and ("seal" not in found or is_sealed(found)):
                return content
        raise ArtifactError(
            must(str(self.path), "be as it was written", "an altered one", "Delete it to resolve anew.")
        )

    def digest(self, path: Path) -> str:
        """sha256 of a file; of a large one from memory while its `file_state` stands."""
        real = path.resolve()
        state = file_state(real)
        if state[0] < REMEMBER_FROM_BYTES:
            return file_digest(real)
        seen = self.get("hashed", str(real))
        if not seen or seen[:-1] != state:
            seen = [*state, file_digest(real)]
            self.put("hashed", str(real), seen)
        return str(seen[-1])

    def differing(self, folder: Path, expected: dict[str, dict[str, Any]]) -> list[str]:
        """Names of files in `folder` that are not there with the size and (where known) sha256 expected."""
        return [
            name
            for name, facts in expected.items()
            if not (folder / name).is_file()
            or (folder / name).stat().st_size != facts["size"]
            or (facts["sha256"] is not None and self.digest(folder / name) != facts["sha256"])
        ]
