"""The packed path of each kind of model against transformers' own padded forward: same logits, same gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_models import (
    PlainFlash,
    apart,
    bert,
    falling,
    gradients,
    modernbert,
    padded,
    random_pairs,
    run_plain_kernels,
    template,
)
from small_models import tiny
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from pipeline.config.learning import Precision
from pipeline.core.reproducibility import seed_everything
from pipeline.engine import modeling
from pipeline.inputs import collation
from pipeline.networks import packed, packed_attention, packed_modernbert
from pipeline.networks.flash import Flash

MODELS: dict[str, Callable[[], Any]] = {
    "bert, 1 layer": lambda: bert(1),
    "bert, 2 layers": lambda: bert(2),
    "bert, 3 layers": lambda: bert(3),
    "modernbert, mean, 1 layer": lambda: modernbert(1),
    "modernbert, mean, last layer local": lambda: modernbert(5),
    "modernbert, mean, last layer global": lambda: modernbert(4),
    "modernbert, cls, 1 layer": lambda: modernbert(1, "cls"),
    "modernbert, cls, last layer local": lambda: modernbert(5, "cls"),
    "modernbert, cls, last layer global": lambda: modernbert(4, "cls"),
    "modernbert, biases": lambda: modernbert(
        4, attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True
    ),
    "modernbert, one theta and every layer local": lambda: modernbert(
        3, layer_types=["sliding_attention"] * 3, local_attention=6
    ),
}
model_named = pytest.mark.parametrize("name", MODELS)


@pytest.mark.parametrize("kernel", ["by pair", "unpadded"])
@model_named
def test_logits_and_gradients_equal_the_padded_model(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "unpadded":
        monkeypatch.setattr(packed_attention, "Flash", PlainFlash())
        monkeypatch.setattr(packed_attention, "runs_unpadded", lambda query: True)
    model, pairs = MODELS[name]().double(), random_pairs()
    expected = padded(model, pairs)
    wanted = gradients(model, expected)
    found = packed.logits(model, collation.pack(pairs[0], template(), *pairs[1:]))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    ours = gradients(model, found)
    assert ours.keys() == wanted.keys() == {key for key, _ in model.named_parameters()}
    for key in wanted:
        # ModernBERT applies rotary in fp32 whatever the model's type, and so do we.
        torch.testing.assert_close(ours[key], wanted[key], rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("modernbert")])
def test_the_kernels_gradients_are_the_operators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = MODELS[name](), random_pairs()
    batch = collation.pack(pairs[0], template(), *pairs[1:])
    expected = modeling.logits(model, batch, Precision.bf16)
    wanted = gradients(model, expected)
    run_plain_kernels(monkeypatch)
    counted, calls = packed_modernbert.kernels.add_norm, []
    monkeypatch.setattr(packed_modernbert.kernels, "add_norm", lambda *args: calls.append(args) or counted(*args))
    found = modeling.logits(model, batch, Precision.bf16)
    assert len(calls) == (0 if name == "modernbert, biases" else 2 * len(model.model.layers) - 1)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    assert apart(gradients(model, found), wanted) <= 2e-3


@model_named
def test_a_pair_does_not_see_its_neighbours(name: str) -> None:
    model, (table, first, second) = MODELS[name]().eval(), random_pairs()
    together = packed.logits(model, collation.pack(table, template(), first, second))
    alone = [
        packed.logits(model, collation.pack(table, template(), first[i : i + 1], second[i : i + 1])) for i in range(25)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)
    backwards = packed.logits(model, collation.pack(table, template(), first[::-1], second[::-1]))
    torch.testing.assert_close(together, backwards.flip(0), rtol=1e-5, atol=1e-6)


RATES = {
    "bert": ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"],
    "modernbert": ["embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"],
}


@pytest.mark.parametrize(("kind", "rate"), [(kind, rate) for kind, rates in RATES.items() for rate in rates])
def test_dropout_is_drawn_in_training_only(kind: str, rate: str) -> None:
    model = bert(2, **{rate: 0.5}) if kind == "bert" else modernbert(4, **{rate: 0.5})
    pairs = random_pairs()
    batch = collation.pack(pairs[0], template(), *pairs[1:])
    assert torch.equal(packed.logits(model.eval(), batch), packed.logits(copy.deepcopy(model).eval(), batch))
    assert not torch.allclose(packed.logits(model.train(), batch), packed.logits(model.train(), batch))


def test_modernbert_drops_attention_weights_besides_its_output() -> None:
    model, pairs = modernbert(2, attention_dropout=0.5).train(), random_pairs()
    for layer in model.model.layers:
        layer.attn.out_drop = torch.nn.Identity()
    batch = collation.pack(pairs[0], template(), *pairs[1:])
    assert not torch.allclose(packed.logits(model, batch), packed.logits(model, batch))


@pytest.mark.parametrize(("kind", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_modernberts_rotary_is_the_plain_formula_and_its_gradient_is_rounded_once(
    kind: torch.dtype, rounding: float
) -> None:
    torch.manual_seed(0)
    given = torch.randn(50, 3, 2, 8, dtype=kind)
    angles = torch.randn(50, 4).repeat(1, 2)[:, None]

    def plain(rows: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
        low, high = rows.to(wide).chunk(2, dim=-1)
        return rows.to(wide) * angles.cos().to(wide) + torch.cat((-high, low), dim=-1) * angles.sin().to(wide)

    rows, exact = given.clone().requires_grad_(), given.double().requires_grad_()
    found = packed_modernbert._Rotary.apply(rows, angles.cos()[:, 0], angles.sin()[:, 0])  # type: ignore[no-untyped-call]
    query, key, value = given.unbind(1)
    for one, other in zip(found, (plain(query, torch.float32), plain(key, torch.float32), value), strict=True):
        assert torch.equal(one, other.to(kind))
    weights = [torch.randn(50, 2, 8).to(kind) for _ in range(3)]
    torch.autograd.backward(found, weights)
    query, key, value = exact.unbind(1)
    wanted = (plain(query, torch.float64), plain(key, torch.float64), value)
    torch.autograd.backward(wanted, [weight.double() for weight in weights])
    torch.testing.assert_close(rows.grad.double(), exact.grad, rtol=rounding, atol=1e-6)


def test_supported_is_only_what_the_code_computes() -> None:
    for build in MODELS.values():
        assert packed.supports(build())
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    others = {
        "another architecture": RobertaForSequenceClassification(RobertaConfig(vocab_size=50, num_labels=1, **small)),
        "another head": BertForMaskedLM(bert(1).config),
        "causal attention": bert(1, is_decoder=True),
        "positions stretched by the longest pair": modernbert(
            1, rope_parameters={
                "full_attention": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        ),
    }  # fmt: skip
    assert {what for what, model in others.items() if packed.supports(model)} == set()


def test_a_child_of_a_supported_class_is_not_supported() -> None:
    class Changed(BertForSequenceClassification):
        pass

    assert not packed.supports(Changed(bert(1).config))


# --- on a GPU ---------------------------------------------------------------------------------------------------------

LONGEST = 400
LARGE: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "max_position_embeddings": 512,
    "initializer_range": 0.06,
}  # fmt: skip
ON_GPU: dict[str, Callable[[], Any]] = {
    "bert": lambda: bert(3, **LARGE),
    "modernbert, mean": lambda: modernbert(4, local_attention=128, **LARGE),
    "modernbert, cls": lambda: modernbert(4, "cls", local_attention=128, **LARGE),
}
"""Heads of 64 as in the recipes' models; pairs up to three of the kernel's blocks, and wider than the local window."""


@pytest.fixture()
def repeatable() -> Iterator[None]:
    """Refuse what does not repeat to the bit; before the first product, which fixes cuBLAS's workspace."""
    seed_everything(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(True, warn_only=True)


def gpu_case(name: str) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    model = ON_GPU[name]().to("cuda")
    pairs = random_pairs(60, longest_text=LONGEST, max_length=LONGEST)
    batch = collation.pack(pairs[0], template(LONGEST), *pairs[1:])
    return model, pairs, {key: tensor.to("cuda") for key, tensor in batch.items()}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The windows the true kernel is called with from now on."""
    windows: list[int] = []

    class Counted:
        @staticmethod
        def apply(*args: Any) -> Any:
            windows.append(args[-1].window)
            return Flash.apply(*args)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(packed_attention, "Flash", Counted)
    return windows


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu_bf16_is_as_near_to_the_padded_fp32_model_as_padded_bf16(
    name: str, repeatable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs, batch = gpu_case(name)
    calls = counted(monkeypatch)
    exact = padded(model, pairs, LONGEST)
    wanted = gradients(model, exact)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rounded = padded(model, pairs, LONGEST).float()
    usual = apart(gradients(model, rounded), wanted)
    found = modeling.logits(model, batch, Precision.bf16)
    assert calls == ([-1] * 3 if name == "bert" else [-1, 64, 64, -1])
    spread = float(exact.std())
    assert float((found - exact.flatten()).abs().max()) <= max(2 * float((rounded - exact).abs().max()), 0.02 * spread)
    ours = apart(gradients(model, found), wanted)
    assert ours <= 2 * usual and usual < 0.1, f"{ours:.3g} beside {usual:.3g}"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu_fp32_goes_by_pair_and_equals_the_padded_model(
    name: str, repeatable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs, batch = gpu_case(name)
    calls = counted(monkeypatch)
    expected = padded(model, pairs, LONGEST)
    wanted = gradients(model, expected)
    found = modeling.logits(model, batch, Precision.fp32)
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-5)
    assert apart(gradients(model, found), wanted) <= 1e-5 and not calls


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32], ids=lambda precision: precision.name)
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu_gradients_repeat_to_the_bit(name: str, precision: Precision, repeatable: None) -> None:
    model, _, batch = gpu_case(name)
    one, two = (gradients(model, modeling.logits(model, batch, precision)) for _ in range(2))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32], ids=lambda precision: precision.name)
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu_nothing_waits_for_the_device(name: str, precision: Precision, repeatable: None) -> None:
    model, _, batch = gpu_case(name)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        modeling.logits(model, batch, precision).sum().backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_on_a_gpu_a_batch_is_where_the_device_can_fetch_it(tmp_path: Path) -> None:
    table, first, second = falling()
    reranker = tiny(tmp_path)
    assert not any(tensor.is_pinned() for tensor in reranker.collate(table, template(), first, second, 8).values())
    reranker.model.to("cuda")
    reranker.keep_tokens(table, template())
    batch = reranker.collate(table, template(), first, second, 8)
    assert all(tensor.is_cuda if name == "ids" else tensor.is_pinned() for name, tensor in batch.items() if len(tensor))
    again = reranker.collate(table, template(), first, second, 8)["ids"]
    assert again.data_ptr() == batch["ids"].data_ptr(), "the table's tokens stay there"
