"""Scoring with weights that stand still, against transformers' own padded forward."""

from __future__ import annotations

import pytest
import torch
from packed_models import batch_of, bert, falling, padded

from pipeline.engine import block_linear
from pipeline.engine.batching import SCORING_WIDTH_STEP, TRAINING_WIDTH_STEP
from pipeline.engine.block_scoring import Frozen
from pipeline.engine.modeling import keep_head_in_fp32


@pytest.fixture(params=["packed", "plain"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(block_linear, "_packs", lambda dtype: False)
    elif not block_linear._packs(torch.float32):
        pytest.skip("oneDNN does not multiply on this processor")


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("width_step", [SCORING_WIDTH_STEP, TRAINING_WIDTH_STEP])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
def test_logits_equal_the_padded_model(layers: int, dtype: torch.dtype, apart: float, width_step: int) -> None:
    model, pairs = bert(layers).to(dtype).eval(), falling()
    batch = batch_of(pairs, width_step)
    assert len(batch["shapes"]) > 1 and int((batch["shapes"].prod(1)).sum()) < len(batch["input_ids"])
    expected = padded(model, pairs)
    assert float(expected.detach().std()) > 0.01
    torch.testing.assert_close(Frozen(model, dtype)(batch), expected, rtol=apart, atol=apart)


@pytest.mark.usefixtures("onednn")
def test_bf16_is_as_near_to_the_padded_fp32_model_as_padded_bf16() -> None:
    model, pairs = bert(3).eval(), falling()
    keep_head_in_fp32(model)
    exact = padded(model, pairs).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = padded(model, pairs).detach().float()
    found = Frozen(model, torch.bfloat16)(batch_of(pairs, SCORING_WIDTH_STEP))
    assert 0 < float((found - exact).abs().max()) <= 1.2 * float((rounded - exact).abs().max())
