"""A simulated GPU: tensors report `cuda:0` as their device, and the CPU computes their true values and gradients.

On machines without a GPU, it lets tests check that all arguments of an operator are on one device, that FlashAttention
gets arguments it accepts, and that the host never waits for the device where it should not. It shows nothing of a GPU's
arithmetic or speed, and its autocast is the CPU's; tests marked `gpu` cover those where there is a GPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from packed_models import plain_flash
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.networks import fused, packed_attention
from pipeline.networks.flash import FlashArguments

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
PIPELINE = Path(packed_attention.__file__).parents[1]
aten = torch.ops.aten

WAIT = {
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default,
    aten._unique2.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operators whose result, or its size, the host must read from the device."""

INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operators for which the host must read how many elements a boolean mask selects."""


@dataclass(slots=True)
class DeviceRecord:
    """What was asked of the device."""

    waits: Counter[str] = field(default_factory=Counter)
    """Module of the pipeline, as `engine/steps`, → how often the host waited for the device in it; "" elsewhere."""
    kernels: Counter[str] = field(default_factory=Counter)
    """Operator → how often it ran on the device."""
    windows: list[int] = field(default_factory=list)
    """The window of each call of FlashAttention."""
    most_rows: float = float("inf")
    """The device runs out of memory where the feed-forward part of a layer has more rows."""


class Simulated(torch.Tensor):
    """A tensor of the simulated device; `held` is the CPU tensor with its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Simulated:
        made: Simulated = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        _MODE[-1].wait()
        return self.held.detach().clone()

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        if not any(str(place) == "cpu" for place in (*args, kwargs.get("device"))):
            return super().to(*args, **kwargs)
        # torch's optimizer groups tensors by the device it sees, the CPU, and moves numbers there without waiting.
        return self if kwargs.get("non_blocking") else self.cpu()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Simulated({self.held})"

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _MODE[-1].run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __init__(self, record: DeviceRecord) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = tree_leaves((args, kwargs))
        leaves = [leaf for leaf in given if isinstance(leaf, torch.Tensor)]
        mine = any(isinstance(leaf, Simulated) for leaf in leaves)
        # Autograd takes the tensor for one of the CPU: the gradient of a cast names the CPU as its device.
        there = mine or any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in given)
        if func is aten._to_copy.default:
            # The device fetches pinned memory by itself; for any other copy that is not empty, the host waits.
            fetched = kwargs.get("non_blocking") and getattr(args[0], "pinned", False)
            if not mine and there and not fetched and args[0].numel():
                self.wait()
        elif func is aten.copy_.default:
            if len({isinstance(leaf, Simulated) for leaf in leaves}) > 1:
                self.wait()
        elif mine:
            strangers = [tuple(leaf.shape) for leaf in leaves if leaf.ndim and not isinstance(leaf, Simulated)]
            if strangers:
                raise RuntimeError(f"Expected all tensors to be on the same device, got {func} with {strangers}")
        masks = func in INDEXED and any(leaf.dtype is torch.bool for leaf in tree_leaves(args[1]) if leaf is not None)
        told = func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None
        if mine and (func in WAIT or masks) and not told:
            self.wait()
        if there:
            self.record.kernels[str(func)] += 1
        if not there:
            return func(*args, **kwargs)
        result = _computed(func, tree_map(_held, args), tree_map(_held, kwargs), self.record)
        if func is aten.gelu.default and len(result) > self.record.most_rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        result = tree_map(_simulated, result)
        return return_and_correct_aliasing(func, args, kwargs, result) if mine else result

    def wait(self) -> None:
        files = [Path(frame.filename) for frame in traceback.extract_stack()]
        modules = [file.relative_to(PIPELINE).with_suffix("") for file in files if file.is_relative_to(PIPELINE)]
        self.record.waits[modules[-1].as_posix() if modules else ""] += 1


_MODE: list[_Mode] = []
"""The mode in force. Kept here because autograd and other threads call the tensors' own dispatch without it."""


def _held(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return CPU
    return leaf.held if isinstance(leaf, Simulated) else leaf


def _simulated(leaf: Any) -> Any:
    return Simulated(leaf) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Simulated) else leaf


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    found: Any = tensor.clone()
    found.pinned = True  # an attribute of this tensor alone, not of its views
    return found


def _first(place: Any) -> Any:
    """Replace `cuda` by `cuda:0`: torch would ask a driver for the current device."""
    return CUDA if str(place) == "cuda" and not isinstance(place, torch.Tensor) else place


def _computed(func: Any, args: Any, kwargs: dict[str, Any], record: DeviceRecord) -> Any:
    if func is aten._flash_attention_forward.default:
        query, arguments = args[0], _arguments(args[5:8], kwargs)
        record.windows.append(arguments.window)
        seed = int(torch.randint(2**62, ())) if arguments.dropout else 0  # a GPU draws it from its own generator
        random = torch.tensor([seed, 0]).view(torch.uint64)
        return (
            _attended(*args[:5], arguments, seed),
            torch.zeros(query.shape[1], query.shape[0]),
            random,
            query[:0],
            query[:0],
        )
    if func is aten._flash_attention_backward.default:
        gradient, query, key, value, _, _, starts, key_starts, *_, random, _ = args
        arguments, seed = _arguments(args[8:11], kwargs), int(random.view(torch.int64)[0])

        def backward() -> tuple[torch.Tensor, ...]:
            leaves = [rows.detach().float().requires_grad_() for rows in (query, key, value)]
            found = plain_flash(*leaves, starts, key_starts, arguments, seed)
            return torch.autograd.grad(found, leaves, gradient.float())

        with ThreadPoolExecutor(1) as elsewhere:  # below autograd, this thread records no gradients
            return tuple(rows.to(query.dtype) for rows in elsewhere.submit(backward).result())
    return func(*args, **kwargs)


def _arguments(numbers: tuple[int, int, float], named: dict[str, Any]) -> FlashArguments:
    max_queries, max_keys, dropout = numbers
    assert named["window_size_left"] == named["window_size_right"]
    return FlashArguments(max_queries, max_keys, named["scale"], dropout, named["window_size_left"])


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, key_starts: torch.Tensor,
    arguments: FlashArguments, seed: int,
) -> torch.Tensor:  # fmt: skip
    """Check the arguments as FlashAttention does and return its result."""
    for rows in (query, key, value):
        assert rows.dtype == query.dtype in (torch.bfloat16, torch.float16), rows.dtype
        assert rows.stride(-1) == 1 and rows.shape[-1] % 8 == 0
    for places, rows in ((starts, query), (key_starts, key)):
        assert places.dtype == torch.int32 and places.is_contiguous() and int(places[-1]) == len(rows)
    return plain_flash(query.float(), key.float(), value.float(), starts, key_starts, arguments, seed).to(query.dtype)


@contextmanager
def simulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceRecord]:
    """Show torch a GPU of 24 GiB; yield a `DeviceRecord`, which records what was asked of it."""
    card = SimpleNamespace(name="simulated GPU", total_memory=24 * 2**30, major=8, minor=6)
    state = torch.zeros(16, dtype=torch.uint8)
    stands_in: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "get_device_name": lambda *_: card.name,
        "get_device_capability": lambda *_: (card.major, card.minor),
        "get_device_properties": lambda *_: card,
        "get_rng_state": lambda *_: state,
        "set_rng_state": lambda *_: None,
        "_lazy_init": lambda: None,
        "empty_cache": lambda: None,
        "manual_seed_all": lambda *_: None,
        "is_bf16_supported": lambda *_, **__: True,
    }
    for name, function in stands_in.items():
        monkeypatch.setattr(torch.cuda, name, function)
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, *args, **values: autocast("cpu", *args, **values))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", _pinned)
    move = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, *args, **kwargs: move(tensor, *map(_first, args), **tree_map(_first, kwargs))
    )
    packed_attention._has_kernel.cache_clear()
    monkeypatch.setattr(fused, "_work", lambda device: False)
    # Unlike with a real GPU, a CPU parameter cannot become one of the simulated device in place.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    record = DeviceRecord()
    with _Mode(record) as mode:
        _MODE.append(mode)
        yield record
        _MODE.pop()
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    packed_attention._has_kernel.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)
