"""Installed packages, found without importing them: the folder of one's files, and its version."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path


def folder_of(package: str) -> Path | None:
    """The folder a package lies in, by import name; None where it is not installed or a module without one."""
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # ValueError: of a module that runs without a spec, as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def version_of(package: str) -> str | None:
    """A package's version, by its own or its import name; None where no distribution, or more than one, says it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        owners = importlib.metadata.packages_distributions().get(package, [])
        return importlib.metadata.version(owners[0]) if len(owners) == 1 else None
