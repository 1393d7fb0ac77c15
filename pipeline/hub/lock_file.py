"""One sealed JSON file beside the outputs, which remembers the commits of hub names and the digests of files.

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
"""Name of the file below `outputs_dir`."""

REMEMBER_FROM_BYTES = 32 * 2**20
"""Larger files are hashed once and remembered with their `file_state`; smaller ones are hashed at every start."""

SECTIONS = {"commits", "files", "hashed"}


class LockFile:
    """The sealed sections: `commits` by artefact, `files` by artefact and commit, `hashed` (large files) by path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, section: str, name: str) -> Any:
        """Return what is remembered under a name, None when nothing is.

        Raises:
            ArtifactError: when the file was altered or is not JSON.
        """
        return self._read().get(section, {}).get(name)

    def put(self, section: str, name: str, value: Any) -> None:
        """Remember a value, keeping what other processes have written meanwhile.

        Raises:
            ArtifactError: when the file was altered or is not JSON.
        """
        with locked(self.path):
            content = self._read()
            content.setdefault(section, {})[name] = value
            write_json(self.path, sealed({part: dict(sorted(content[part].items())) for part in sorted(content)}))

    def _read(self) -> dict[str, Any]:
        """Return the sections. They are sealed because one altered digit would silently select other weights."""
        found = read_json(self.path) if self.path.exists() else {}
        if isinstance(found, dict):
            content = {name: part for name, part in found.items() if name != "seal"}
            # A file without a seal is from an earlier version.
            if content.keys() <= SECTIONS and ("seal" not in found or is_sealed(found)):
                return content
        raise ArtifactError(
            must(str(self.path), "be as it was written", "an altered one", "Delete it to resolve everything again.")
        )

    def digest(self, path: Path) -> str:
        """Return a file's sha256; a large file's is remembered while its `file_state` is unchanged."""
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
        """Return the names of files that are missing in `folder` or have another size or (where known) sha256."""
        return [
            name
            for name, facts in expected.items()
            if not (folder / name).is_file()
            or (folder / name).stat().st_size != facts["size"]
            or (facts["sha256"] is not None and self.digest(folder / name) != facts["sha256"])
        ]
