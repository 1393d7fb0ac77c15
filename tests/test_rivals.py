"""Names of rivals in tables: short, distinct, and none that the report uses itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.stages.rivals import rival_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["owner/ranker", "runs/x-1/model"], ["ranker", "x-1"]),
        (["a/reranker", "b/reranker", "c/other@main"], ["a-reranker", "b-reranker", "other-main"]),
        (["x/trained", "y/bi_encoder", "z/differences"], ["x-trained", "y-bi_encoder", "z-differences"]),
        (["/models/first_stage/model"], ["models-first_stage"]),
        (["a/x@refs/pr/1", "a/y@refs/pr/1", ""], ["x-refs-pr-1", "y-refs-pr-1", "unnamed"]),
        (["."], [Path.cwd().name]),
    ],
    ids=["last part", "two of one name", "names of the report", "run named as the report's", "revisions", "folder"],
)
def test_rival_names_are_shortened_until_unique(paths: list[str], names: list[str]) -> None:
    assert rival_names(paths) == names


@pytest.mark.parametrize("paths", [["a/model-1", "b/x", "a/model-1"], ["trained"], ["a/b-c", "a-b/c", "x/b-c", "y/c"]])
def test_rivals_whose_names_stay_equal_are_refused(paths: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation\.rivals must be models with distinct names that the report"):
        rival_names(paths)
