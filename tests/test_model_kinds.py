"""Which folders are cross-encoders and which bi-encoders, and which are refused as either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_fixtures import modernbert
from small_models import PROBES, lively, model_config, tiny

from pipeline.core.errors import ModelError
from pipeline.engine.model_files import load, save
from pipeline.engine.model_kinds import must_be_bi_encoder, must_be_cross_encoder


def cross_encoder(folder: Path) -> Path:
    base = folder.parent / "base"
    save(lively(tiny(base)), folder, model_config(base))
    return folder


def predicted(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(PROBES)


def prompted(folder: Path, default: str | None) -> Path:
    """A cross-encoder as sentence-transformers saves it, with prompts, of which one may be put before each text."""
    from sentence_transformers import CrossEncoder

    prompts = {"query": "the old river is a stone ", "none": ""}
    plain = cross_encoder(folder.parent / "plain")
    CrossEncoder(str(plain), device="cpu", prompts=prompts, default_prompt_name=default).save_pretrained(str(folder))
    return folder


def test_a_cross_encoder_with_a_default_prompt_is_refused_for_pairs_are_scored_without(tmp_path: Path) -> None:
    source, bare = prompted(tmp_path / "source", "query"), prompted(tmp_path / "bare", None)
    assert np.abs(predicted(source) - predicted(bare)).max() > 1e-4, "the prompt is not without effect"
    got = r"must name cross-encoders without a default prompt, got 'the old river is a stone ' in "
    with pytest.raises(ModelError, match=rf"^model\.path {got}") as error:
        load(source, model_config(source), seed=0)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=rf"^evaluation\.rivals {got}"):
        must_be_cross_encoder(source, "evaluation.rivals")
    load(source, model_config(source, random_init=True), seed=0)
    for folder in (bare, prompted(tmp_path / "empty", "none")):
        must_be_cross_encoder(folder, "evaluation.rivals")
        assert load(folder, model_config(folder), seed=0).head_was_saved
    (source / "modules.json").unlink()
    assert np.array_equal(predicted(source), predicted(bare)), "which sentence-transformers too scores without"
    load(source, model_config(source), seed=0)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"prompts": 3, "default_prompt_name": "query"}', '{"default_prompt_name": []}']
)
def test_a_file_of_prompts_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str) -> None:
    source = prompted(tmp_path / "source", None)
    (source / "config_sentence_transformers.json").write_text(text)
    said = r"^model\.path must hold a config_sentence_transformers\.json that can be read, got "
    with pytest.raises(ModelError, match=said) as error:
        load(source, model_config(source), seed=0)
    assert "\n" not in str(error.value) and error.value.__suppress_context__


def test_a_cross_encoder_is_no_bi_encoder(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    source = cross_encoder(tmp_path / "source")
    CrossEncoder(str(source), device="cpu").save_pretrained(str(tmp_path / "again"))
    SentenceTransformer(str(source), device="cpu").save_pretrained(str(tmp_path / "embedder"))
    for folder in (source, tmp_path / "again"):
        with pytest.raises(
            ModelError, match=r"^mining\.path must name a bi-encoder, .*, got a cross-encoder in "
        ) as error:
            must_be_bi_encoder(folder, "mining.path")
        assert "\n" not in str(error.value)
    (tmp_path / "embedder" / "config.json").write_text((source / "config.json").read_text())
    for folder in (tmp_path / "embedder", modernbert(tmp_path / "base"), tmp_path / "nothing"):
        must_be_bi_encoder(folder, "mining.path")
