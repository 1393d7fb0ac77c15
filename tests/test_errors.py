"""Other libraries' errors on one line, which of them are shortages, and the form of every refusal."""

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
    ids=["two lines", "blank lines first", "colon and reason", "colon alone", "no message", "blank message"],
)
def test_message_is_reduced_to_one_line(error: Exception, first: str, whole: str, with_class: str) -> None:
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
    ids=["description", "quoted", "number", "None", "full stop", "unprintable", "long"],
)
def test_refusal_shows_its_value_on_one_line_of_at_most_200_characters(got: object, shown: str) -> None:
    assert must("data.path", "exist", got, "Correct it.") == f"data.path must exist, got {shown}. Correct it."


@pytest.mark.parametrize(
    ("message", "full"),
    [
        ("CUDA error: out of memory", True),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "c10/cuda/CUDACachingAllocator.cpp":1131', True),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "c10/cuda/PeerToPeerAccess.cpp":58', False),
        ("CUDA driver error: unknown error", False),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
    ids=["out of memory", "NVML in the allocator", "NVML elsewhere", "driver", "illegal access"],
)
def test_full_gpu_is_recognised_by_its_message(message: str, full: bool) -> None:
    assert out_of_gpu_memory(RuntimeError(message)) is full


@pytest.mark.parametrize(
    "shortage",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        OSError("Cannot allocate memory (os error 12)"),  # as libraries in Rust say it
        *(OSError(number, os.strerror(number)) for number in (errno.ENOMEM, errno.ENOSPC, errno.EMFILE)),
    ],
    ids=["Python", "torch", "Rust", "ENOMEM", "ENOSPC", "EMFILE"],
)
def test_shortage_is_raised_in_place_of_the_error_it_caused(shortage: Exception) -> None:
    caused = ValueError("cannot read the file")
    caused.__cause__ = shortage
    for error in (shortage, caused):
        with pytest.raises(type(shortage)) as raised:
            raise_shortage(error)
        assert raised.value is shortage


def test_other_errors_are_no_shortage() -> None:
    raise_shortage(OSError(errno.ENOENT, "No such file or directory"))
    raise_shortage(OSError("Can't load the tokenizer"))


@pytest.mark.timeout(10)
def test_cyclic_causes_terminate() -> None:
    one, two, shortage = ValueError("one"), ValueError("two"), MemoryError()
    one.__cause__, two.__cause__ = two, one
    raise_shortage(one)
    two.__cause__, shortage.__cause__ = shortage, one
    with pytest.raises(MemoryError) as raised:
        raise_shortage(one)
    assert raised.value is shortage


def test_suppressed_context_is_ignored() -> None:
    error = ValueError("broken")
    error.__context__ = MemoryError()
    with pytest.raises(MemoryError):
        raise_shortage(error)
    error.__suppress_context__ = True  # as `from None` leaves it
    raise_shortage(error)
