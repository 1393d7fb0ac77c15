"""Linear layers as one matmul, packed or not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.networks import block_linear
from pipeline.networks.block_linear import Linear


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(
    ("packed", "dtype", "apart"),
    [
        (False, torch.float64, 1e-12), (False, torch.float32, 1e-5), (False, torch.bfloat16, 2e-2),
        (True, torch.float32, 1e-5), (True, torch.bfloat16, 2e-2),
    ],
)  # fmt: skip
def test_it_is_the_layers_side_by_side(
    packed: bool, dtype: torch.dtype, apart: float, gelu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(block_linear, "_packs", lambda dtype: False)
    elif not block_linear._packs(dtype):
        pytest.skip("oneDNN does not multiply this type on this processor")
    torch.manual_seed(0)
    modules, x = [torch.nn.Linear(24, width) for width in (8, 40)], torch.randn(33, 24)
    expected = torch.cat([module.to(torch.float64)(x.double()) for module in modules], dim=1)
    linear = Linear(modules, dtype, keep_weight=True)
    assert torch.equal(linear.weight, torch.cat([module.weight for module in modules]).to(dtype))
    found = linear(x.to(dtype), gelu=gelu)
    assert found.dtype is dtype and not found.requires_grad
    expected = F.gelu(expected) if gelu else expected
    torch.testing.assert_close(found.double(), expected.detach(), rtol=apart, atol=apart)


def test_a_packed_weight_stands_alone_unless_the_other_is_kept() -> None:
    if not block_linear._packs(torch.float32):
        pytest.skip("oneDNN does not multiply this type on this processor")
    module = torch.nn.Linear(16, 16)
    assert torch.equal(Linear([module], torch.float32, keep_weight=True).weight, module.weight)
    with pytest.raises(AssertionError):
        _ = Linear([module], torch.float32).weight


def test_its_weights_are_those_of_its_making() -> None:
    module, x = torch.nn.Linear(16, 16), torch.randn(5, 16)
    linear = Linear([module], torch.float32)
    before = linear(x)
    with torch.no_grad():
        module.weight.mul_(2.0)
    assert torch.equal(linear(x), before) and not torch.allclose(Linear([module], torch.float32)(x), before)
