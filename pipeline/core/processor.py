"""What multiplies bf16 on this CPU, as far as oneDNN may use it."""

from __future__ import annotations

import os

import torch

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
WITHOUT_AMX = frozenset({"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2", "AVX10_2_512"})
"""oneDNN's names of instruction sets that leave those units out; a name it does not know is no limit to it."""

NO_BF16_UNIT = "neither AMX nor AVX512_BF16"
"""What a CPU has that trains in fp32."""


def bf16_unit() -> str | None:
    """What multiplies bf16 on this CPU as far as oneDNN may use it, `AMX` or `AVX512_BF16`; None: nothing does."""
    limit = onednn_limit()
    if limit in WITHOUT_BF16:
        return None
    if torch.cpu._is_amx_tile_supported() and limit not in WITHOUT_AMX:
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else None


def onednn_limit() -> str:
    """The instruction set oneDNN was told to stay within, empty for none, read as it reads it."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
