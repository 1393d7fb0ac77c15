"""Masks drawn on a CPU: their rate, what they depend on, and what they do to numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pipeline.networks.dropout import Dropout, drawn_seed, drop_, scale


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_mask_drops_its_rate(rate: float) -> None:
    torch.manual_seed(0)
    kept = Dropout(drawn_seed()).mask((1000, 1001), rate)
    assert set(kept.unique().tolist()) == {-1, 0}
    # Five standard errors of a million draws.
    assert float((kept == 0).double().mean()) == pytest.approx(rate, abs=5 * (rate * (1 - rate) / 1_001_000) ** 0.5)
    columns = (kept == 0).double().mean(0)
    assert float(columns.std()) == pytest.approx((rate * (1 - rate) / 1000) ** 0.5, rel=0.15), "no stripes"


def test_masks_follow_torchs_state_alone() -> None:
    torch.manual_seed(3)
    first = Dropout(drawn_seed())
    masks = [first.mask((64, 33), 0.2), first.mask((64, 33), 0.2)]
    following = Dropout(drawn_seed()).mask((64, 33), 0.2)
    torch.manual_seed(3)
    again = Dropout(drawn_seed())
    assert all(torch.equal(again.mask((64, 33), 0.2), mask) for mask in masks)
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], following)


def test_torchs_generator_is_asked_for_the_seed_alone() -> None:
    states, seed = [torch.get_rng_state()], drawn_seed()
    states.append(torch.get_rng_state())
    for _ in range(2):
        assert torch.equal(Dropout(seed).mask((3, 5), 0.5), Dropout(seed).mask((3, 5), 0.5))
    states.append(torch.get_rng_state())
    assert [torch.equal(one, two) for one, two in pairwise(states)] == [False, True]


def test_a_rate_of_zero_drops_nothing() -> None:
    assert (Dropout(drawn_seed()).mask((300, 300), 0.0) == -1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_stays_is_unchanged_and_what_is_dropped_is_zero(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    values, mask = torch.randn(50, 7, dtype=dtype), Dropout(drawn_seed()).mask((50, 7), 0.3)
    found = drop_(values.clone(), mask)
    assert torch.equal(found, torch.where(mask == -1, values, torch.zeros((), dtype=dtype)))


def test_the_scale_is_the_inverse_of_the_share_that_stays() -> None:
    assert scale(0.0) == 1.0
    assert scale(0.5) == 2.0
    assert scale(0.1) == pytest.approx(1 / 0.9, rel=2e-5)
