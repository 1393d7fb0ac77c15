"""Folders and versions of installed packages, found without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path


def folder_of(package: str) -> Path | None:
    """Return a package's folder, by import name; None if it is not installed or is a module without a folder."""
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # ValueError: from a module without a spec, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def version_of(package: str) -> str | None:
    """Return a package's version, by distribution or import name; None unless exactly one distribution provides it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        owners = importlib.metadata.packages_distributions().get(package, [])
        return importlib.metadata.version(owners[0]) if len(owners) == 1 else None
