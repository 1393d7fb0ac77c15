"""What a foreign error says, in one line, whether it says that a GPU is full, and the form of a refusal."""

from __future__ import annotations

import errno
import os

import pytest

from pipeline.core.errors import first_line, must, named, one_line, out_of_gpu_memory, raise_shortage


@pytest.mark.parametrize(
    ("error", "first", "whole", "with_class"),
    [
        (ValueError("one\n two"), "one", "one two", "ValueError: one"),
        (ValueError("\n \ntwo "), "two", "two", "ValueError: two"),
        (
            ValueError("it failed:\n\n why\nwhere"),
            "it failed: why",
            "it failed: why where",
            "ValueError: it failed: why",
        ),
        (ValueError("it failed:"), "it failed:", "it failed:", "ValueError: it failed:"),
        (ValueError(), "ValueError", "ValueError", "ValueError"),
        (OSError(" \n"), "OSError", "OSError", "OSError"),
    ],
)
def test_an_error_that_may_say_nothing_on_one_line(error: Exception, first: str, whole: str, with_class: str) -> None:
    assert (first_line(error), one_line(error), named(error)) == (first, whole, with_class)


@pytest.mark.parametrize(
    ("got", "shown"),
    [
        ("nothing there", "nothing there"),
        (repr("a"), "'a'"),
        (3, "3"),
        (None, "None"),
        ("Torn file.", "Torn file"),
        ("a\x1b[31m\nb — 漢字", r"a\x1b[31m\nb — 漢字"),
        ("x" * 201, "x" * 200 + "…"),
    ],
)
def test_a_refusal_prints_what_it_got_as_it_stands(got: object, shown: str) -> None:
    assert must("data.path", "exist", got, "Correct it.") == f"data.path must exist, got {shown}. Correct it."


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


@pytest.mark.parametrize(
    "short",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        OSError("Cannot allocate memory (os error 12)"),  # as libraries in Rust say it
        *(OSError(number, os.strerror(number)) for number in (errno.ENOMEM, errno.ENOSPC, errno.EMFILE)),
    ],
)
def test_a_shortage_is_found_below_what_a_library_makes_of_it(short: Exception) -> None:
    made = ValueError("cannot read the file")
    made.__cause__ = short
    for error in (short, made):
        with pytest.raises(type(short)) as raised:
            raise_shortage(error)
        assert raised.value is short
    raise_shortage(OSError(errno.ENOENT, "No such file or directory"))
    raise_shortage(OSError("Can't load the tokenizer"))


def test_a_circle_of_causes_ends_and_what_was_answered_is_no_cause() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    raise_shortage(one)
    answered = ValueError("broken")
    answered.__context__, answered.__suppress_context__ = MemoryError(), True  # as `from None` leaves it
    raise_shortage(answered)
