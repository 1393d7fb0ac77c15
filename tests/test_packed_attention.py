"""Attention within pairs: both kernels give the same, and FlashAttention is called as it must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from packed_models import PlainFlash, random_pairs, template

from pipeline.inputs import collation
from pipeline.inputs.tokens import TokenTable
from pipeline.networks import packed_attention
from pipeline.networks.flash import Flash, FlashArguments
from pipeline.networks.packed_attention import FULL, Layout, attend
from pipeline.networks.packed_rows import Rows

LENGTHS = [6, 3, 12]
"""Tokens of three pairs, special ones included; 21 rows."""


def layout() -> Layout:
    table = TokenTable(np.arange(1, 30), np.array([0, 3, 3]), np.array([3, 0, 9]))
    return Rows.of(collation.pack(table, template(), np.array([0, 1, 2]), np.array([1, 1, 1]))).layout


def rows(count: int = sum(LENGTHS), dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 2, 16, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


@pytest.fixture()
def plain(monkeypatch: pytest.MonkeyPatch) -> PlainFlash:
    """The unpadded kernel's place taken by the plain one, which a CPU can run."""
    plain = PlainFlash()
    monkeypatch.setattr(packed_attention, "Flash", plain)
    monkeypatch.setattr(packed_attention, "runs_unpadded", lambda query: True)
    return plain


def test_a_layout_says_where_each_token_lies() -> None:
    found = layout()
    assert found.starts.tolist() == [0, 6, 9, 21] and found.starts.dtype == torch.int32
    assert found.slots[1].tolist() == [6, 7, 8] + [0] * 9
    assert found.present.sum(dim=1).tolist() == LENGTHS
    assert found.places.tolist() == [*range(6), *range(12, 15), *range(24, 36)]
    assert found.first.tolist() == [0, 6, 9]
    values = torch.arange(21.0)[:, None]
    assert torch.equal(found.by_pair(values).flatten(0, 1)[found.places], values)
    assert not found.by_pair(values)[~found.present].any()


def test_places_are_those_of_the_tokens_present_in_order() -> None:
    table, first, second = random_pairs()
    found = Rows.of(collation.pack(table, template(), first, second)).layout
    assert torch.equal(found.places, found.present.flatten().nonzero().squeeze(1))
    assert torch.equal(found.slots.flatten()[found.places], torch.arange(len(found.places)))


@pytest.mark.parametrize(
    ("size", "dtype", "kernel", "unpadded"),
    [
        (64, torch.bfloat16, True, True),
        (192, torch.float16, True, True),
        (200, torch.bfloat16, True, False),
        (60, torch.bfloat16, True, False),
        (64, torch.float32, True, False),
        (64, torch.bfloat16, False, False),
    ],
)
def test_padding_is_left_out_where_the_kernel_takes_the_heads(
    monkeypatch: pytest.MonkeyPatch, size: int, dtype: torch.dtype, kernel: bool, unpadded: bool
) -> None:
    monkeypatch.setattr(packed_attention, "_has_kernel", lambda device: kernel)
    assert packed_attention.has_unpadded(torch.device("cuda"), dtype, size) is unpadded


def test_a_window_hides_what_is_farther_and_nothing_within() -> None:
    mask = layout().mask(2)
    assert mask.shape == (3, 1, 12, 12)
    assert mask[0, 0, 0].nonzero().flatten().tolist() == [0, 1, 2]
    assert mask[0, 0, 5].nonzero().flatten().tolist() == [3, 4, 5], "not the empty places behind the pair"
    assert mask[2, 0, 6].nonzero().flatten().tolist() == [4, 5, 6, 7, 8]
    assert layout().mask(11).shape == (3, 1, 1, 12), "a window as wide as the longest pair hides nothing"
    assert layout().mask(10).shape == (3, 1, 12, 12)


@pytest.mark.parametrize(
    ("window", "first_only", "asked", "longest"),
    [(FULL, False, [0, 6, 9, 21], 12), (2, False, [0, 6, 9, 21], 12), (FULL, True, [0, 1, 2, 3], 1)],
    ids=["whole pairs", "a window of 2", "first tokens"],
)
def test_the_unpadded_kernel_is_told_where_runs_lie(
    plain: PlainFlash, window: int, first_only: bool, asked: list[int], longest: int
) -> None:
    (query, key, value), where = rows(), layout()
    queries = query[where.first] if first_only else query
    attend(queries, key, value, where, scale=0.3, dropout=0.1, window=window, first_only=first_only)
    (call,) = plain.calls
    assert call[0] is queries and call[1] is key and call[2] is value
    for starts, wanted in zip(call[3:5], (asked, [0, 6, 9, 21]), strict=True):
        assert starts.dtype == torch.int32 and starts.tolist() == wanted
    assert call[5] == FlashArguments(longest, 12, 0.3, 0.1, window)
    assert type(call[5].max_queries) is int and type(call[5].max_keys) is int, "a tensor would be read back"


@pytest.mark.parametrize(("window", "first_only"), [(FULL, False), (2, False), (0, False), (11, False), (FULL, True)])
def test_both_kernels_give_the_same_contexts_and_gradients(
    monkeypatch: pytest.MonkeyPatch, window: int, first_only: bool
) -> None:
    where, found = layout(), []
    for unpadded in (False, True):
        query, key, value = rows()
        monkeypatch.setattr(packed_attention, "Flash", PlainFlash())
        monkeypatch.setattr(packed_attention, "runs_unpadded", lambda query, chosen=unpadded: chosen)
        queries = query[where.first] if first_only else query
        context = attend(queries, key, value, where, scale=0.3, dropout=0.0, window=window, first_only=first_only)
        assert context.shape == (len(queries), 32)
        (context * torch.linspace(-1, 1, 32, dtype=torch.float64)).sum().backward()
        found.append([context, query.grad, key.grad, value.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_window_narrower_than_a_pair_changes_its_contexts() -> None:
    query, key, value = rows()
    wide, narrow = (attend(query, key, value, layout(), scale=0.3, dropout=0.0, window=w) for w in (FULL, 4))
    same = (wide - narrow).abs().amax(dim=1) < 1e-12
    # In the pair of 6 the middle two see all of it; the pair of 3 fits the window; of 12, each misses some.
    assert same.tolist() == [False, True, True, True, True, False] + [True] * 3 + [False] * 12


def test_dropout_by_pair_drops_weights() -> None:
    query, key, value = rows()
    whole, dropped = (attend(query, key, value, layout(), scale=0.3, dropout=rate) for rate in (0.0, 0.5))
    assert not torch.allclose(dropped, whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_cpu_never_runs_the_unpadded_kernel(dtype: torch.dtype) -> None:
    assert not packed_attention.runs_unpadded(torch.zeros(4, 2, 64, dtype=dtype))


@pytest.mark.gpu
def test_a_gpu_runs_the_unpadded_kernel_in_half_precision() -> None:
    def runs(dtype: torch.dtype, size: int = 64) -> bool:
        return packed_attention.runs_unpadded(torch.zeros(4, 2, size, dtype=dtype, device="cuda"))

    capable = torch.cuda.get_device_capability()[0] >= 8
    assert runs(torch.bfloat16) == runs(torch.float16) == capable
    assert not runs(torch.float32)
    assert not runs(torch.bfloat16, size=20) and not runs(torch.bfloat16, size=200)


RUNS = [300, 1, 17, 128, 129, 64]


def starts_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "first_only"), [(FULL, False), (16, False), (64, False), (FULL, True)])
def test_the_gpu_kernel_gives_what_the_plain_one_does(window: int, first_only: bool) -> None:
    starts = starts_of(RUNS)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(sum(RUNS), 2, 64, generator=generator).bfloat16() for _ in range(3)]
    asked = torch.arange(len(RUNS) + 1, dtype=torch.int32) if first_only else starts
    found = []
    for place, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        q, k, v = (tensor.to(place, dtype).requires_grad_() for tensor in given)
        queries = q[starts[:-1].long().to(place)] if first_only else q
        kernel: Any = PlainFlash() if place == "cpu" else Flash
        arguments = FlashArguments(1 if first_only else 300, 300, 0.125, 0.0, window)
        context = kernel.apply(queries, k, v, asked.to(place), starts.to(place), arguments)
        (context.double() * torch.linspace(-1, 1, 64, dtype=torch.float64, device=place)).sum().backward()
        found.append([t.detach().double().cpu() for t in (context, q.grad, k.grad, v.grad) if t is not None])
    for a, b in zip(*found, strict=True):
        # bf16 has 8 significant bits; a wrong window or run is off by tenths.
        assert float((a - b).norm() / a.norm()) < 0.01


@pytest.mark.gpu
def test_the_gpu_kernel_drops_one_weight_in_ten_and_the_same_ones_backwards() -> None:
    lengths = [64] * 40
    starts = starts_of(lengths).to("cuda")
    # Values that tell each key from the others: contexts are the weights themselves.
    each = torch.eye(64).repeat(40, 1)[:, None].expand(-1, 2, -1).to("cuda", torch.bfloat16).contiguous()
    query = torch.zeros(2560, 2, 64, dtype=torch.bfloat16, device="cuda")
    key = torch.zeros_like(query)

    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        value = each.clone().requires_grad_()
        torch.manual_seed(seed)
        context: Any = Flash.apply(query, key, value, starts, starts, FlashArguments(64, 64, 0.125, 0.1, FULL))  # type: ignore[no-untyped-call]
        torch.rand(1000, device="cuda")  # whatever is drawn in between
        context.backward(torch.ones_like(context))
        assert value.grad is not None
        return context.detach().float(), value.grad.float()

    one, gradient = run(1)
    assert float((one == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert torch.allclose(one[one != 0], torch.tensor(1 / 64 / 0.9, device="cuda"), rtol=0.01)
    # The gradient of a value is the sum of the weights by which it was seen, over its run's queries.
    seen = one.view(40, 64, 2, 64).sum(dim=1).transpose(1, 2).reshape(2560, 2)
    assert torch.allclose(gradient, seen[..., None].expand_as(gradient), rtol=0.02, atol=1e-3)
    again, other = run(1)[0], run(2)[0]
    assert torch.equal(one, again) and not torch.equal(one, other)
