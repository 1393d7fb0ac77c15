"""The unit that multiplies bf16 on this CPU, as far as oneDNN may use it."""

from __future__ import annotations

import os

import torch

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
WITHOUT_AMX = frozenset({"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2", "AVX10_2_512"})
"""oneDNN's names of instruction sets that lack these units; as a limit, oneDNN ignores a name it does not know."""

NO_BF16_UNIT = "neither AMX nor AVX512_BF16"
"""The units of a CPU that trains in fp32, in the words of messages."""


def bf16_unit() -> str | None:
    """Return the unit that multiplies bf16 on this CPU and that oneDNN may use: `AMX`, `AVX512_BF16` or None."""
    limit = onednn_limit()
    if limit in WITHOUT_BF16:
        return None
    if torch.cpu._is_amx_tile_supported() and limit not in WITHOUT_AMX:
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else None


def onednn_limit() -> str:
    """Return the instruction set that the environment limits oneDNN to, empty if none, read as oneDNN reads it."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
