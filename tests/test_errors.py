"""What a foreign error says, in one line, and whether it says that a GPU is full."""

from __future__ import annotations

import pytest

from pipeline.core.errors import first_line, out_of_gpu_memory


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n \ntwo"), "two"),
        (ValueError(), "ValueError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_the_first_line_of_an_error_that_may_say_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("CUDA error: out of memory", True),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "c10/cuda/CUDACachingAllocator.cpp":1131', True),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "c10/cuda/PeerToPeerAccess.cpp":58', False),
        ("CUDA driver error: unknown error", False),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_a_full_gpu_is_known_by_what_is_said(said: str, full: bool) -> None:
    assert out_of_gpu_memory(RuntimeError(said)) is full
