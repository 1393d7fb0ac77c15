"""Seeds and generators, and what two records of a machine differ in."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from pipeline.core.reproducibility import differences, repeatable, rng_state, seed_everything, set_rng_state


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_one_seed_decides_every_generator() -> None:
    seed_everything(12)
    first = draws()
    seed_everything(12)
    assert draws() == first
    seed_everything(13)
    assert not set(draws()) & set(first)
    assert torch.are_deterministic_algorithms_enabled()


def test_what_has_no_repeatable_kernel_is_refused_only_within(recwarn: pytest.WarningsRecorder) -> None:
    def put() -> torch.Tensor:
        return torch.zeros(2).put_(torch.arange(2), torch.ones(2))

    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"), repeatable(True):
        put()
    put()
    with repeatable(False):
        put()
    put()
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


def test_generators_go_on_after_a_trip_through_a_file() -> None:
    seed_everything(3)
    torch.rand(7)
    file = io.BytesIO()
    torch.save(rng_state(), file)
    expected = torch.nn.functional.dropout(torch.ones(50), 0.5)
    file.seek(0)
    set_rng_state(torch.load(file, weights_only=True))
    assert torch.equal(torch.nn.functional.dropout(torch.ones(50), 0.5), expected)


def test_a_run_on_the_cpu_does_not_start_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    state = rng_state()
    assert set(state) == {"torch"}
    set_rng_state({**state, "cuda": state["torch"]})  # a checkpoint of a run on one


def test_scopes_say_what_differs() -> None:
    assert differences({"torch": "1", "threads": 2}, {"torch": "1", "threads": 4}) == "threads 2 → 4"
    assert differences({"torch": "1"}, {"torch": "1", "new": 3}) == "new None → 3"
    assert differences(None, {"torch": "1"}) == "" == differences({"torch": "1"}, None)
