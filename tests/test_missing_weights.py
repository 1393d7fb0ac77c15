"""A folder that lacks weights is refused, not completed at random; only an untrained head or pooler may be absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_fixtures import bert_tiny, modernbert
from refusals import one_line_refusal
from safetensors.torch import load_file, save_file
from small_models import model_config, tiny

from pipeline.core.errors import ModelError
from pipeline.engine.model_files import load, save


def renamed(folder: Path, names: Callable[[str], str | None]) -> Path:
    """The folder with its weights under other names, those left out for which `names` gives None."""
    pickled, path = folder / "pytorch_model.bin", folder / "model.safetensors"
    kept = {names(name): tensor for name, tensor in (load_file(path) if path.exists() else torch.load(pickled)).items()}
    kept.pop(None, None)
    if path.exists():
        save_file(kept, path, {"format": "pt"})
    else:
        torch.save(kept, pickled)
    return folder


def written(base: Path, folder: Path, *, trained: bool) -> Path:
    """A folder with a small cross-encoder, or with a plain encoder."""
    if trained:
        save(tiny(base), folder, model_config(base))
    else:
        bert_tiny(folder)
    return folder


PREFIXES = ["module.", "_orig_mod.", "model.", "base_model.model."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("trained", [False, True], ids=["encoder", "cross-encoder"])
def test_weights_under_other_names_are_refused_not_drawn_at_random(
    base: Path, tmp_path: Path, trained: bool, prefix: str
) -> None:
    folder = written(base, tmp_path / "model", trained=trained)
    renamed(folder, lambda name: prefix + name)
    rule = rf"^model\.path must hold all weights .*, got no bert\.embeddings\.\S+ in .*'{prefix}bert\.embed.*merge_and"
    with pytest.raises(ModelError, match=rule) as error:
        load(folder, model_config(folder), seed=0)
    one_line_refusal(error.value)


@pytest.mark.parametrize(
    ("trained", "lost", "refused"),
    [
        (True, "bert.encoder.layer.1.", True),
        (True, "classifier.", True),
        (True, "bert.pooler.", True),
        (False, "bert.encoder.layer.1.", True),
        (False, "bert.pooler.", False),  # as of a model for masked words: drawn with the head
        (False, "cls.", False),
    ],
)
def test_missing_weights_are_refused_unless_an_untrained_head_or_pooler(
    base: Path, tmp_path: Path, trained: bool, lost: str, refused: bool
) -> None:
    folder = written(base, tmp_path / "model", trained=trained)
    renamed(folder, lambda name: None if name.startswith(lost) else name)
    if refused:
        with pytest.raises(
            ModelError, match=rf"^model\.path must hold all weights .*, got no {lost}.* save_pretrained\."
        ):
            load(folder, model_config(folder), seed=0)
        load(folder, model_config(folder, random_init=True), seed=0)
    else:
        assert not load(folder, model_config(folder), seed=0).head_was_saved


def test_modernbert_may_lack_its_head_but_no_layer(tmp_path: Path) -> None:
    source = modernbert(tmp_path)
    renamed(source, lambda name: None if name.startswith(("head.", "decoder.")) else name)
    assert not load(source, model_config(source), seed=0).head_was_saved
    renamed(source, lambda name: None if name.startswith("model.layers.2.") else name)
    with pytest.raises(ModelError, match=r", got no model\.layers\.2\..* Restore the missing weights, and save"):
        load(source, model_config(source), seed=0)
    assert load(source, model_config(source, layers=2), seed=0).layers == 2
