"""Names of artefacts: equal for equal meaning, different otherwise, and stable from one machine to the next."""

from __future__ import annotations

import enum
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.fingerprint import LENGTH, canonical_json, file_digest, fingerprint, plain, slug, text_digest


class Colour(enum.Enum):
    red = 1


@dataclass
class Section:
    rate: float
    colour: Colour
    where: Path
    names: list[str]


SECTION = Section(2e-5, Colour.red, Path("a/b"), ["é", "b"])


def test_the_canonical_form_is_pinned() -> None:
    text = '{"colour":"red","names":["\\u00e9","b"],"rate":2e-05,"where":"a/b"}'
    assert canonical_json(SECTION) == text
    assert fingerprint(SECTION) == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert len(fingerprint(SECTION)) == LENGTH == 12


def test_key_order_and_tuples_do_not_matter_but_list_order_and_types_do() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    distinct: list[Any] = [[1, 2], [2, 1], {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": None}, {}, []]
    assert len({fingerprint(value) for value in distinct}) == len(distinct)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), float("nan"), float("inf"), b"x", Section], ids=lambda value: type(value).__name__
)
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="has no canonical form"):
        plain({"inside": [value]})


def test_the_hash_seed_does_not_matter(root: Path) -> None:
    code = (
        "from pipeline.core.fingerprint import fingerprint; print(fingerprint({'b': [1], 'a': {'d': 1.5, 'c': None}}))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert names == {fingerprint({"a": {"c": None, "d": 1.5}, "b": [1]})}


@given(st.lists(st.text(max_size=6), max_size=5), st.lists(st.text(max_size=6), max_size=5))
def test_two_lists_of_texts_have_one_digest_only_when_equal(one: list[str], two: list[str]) -> None:
    assert (text_digest(one) == text_digest(two)) == (one == two)


def test_texts_are_delimited_and_lone_surrogates_allowed() -> None:
    assert text_digest(["ab", "c"]) != text_digest(["a", "bc"]) != text_digest(["abc"])
    assert text_digest(["\ud800"]) != text_digest(["?"])


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(OSError, match="No such file"):
        file_digest(tmp_path / "absent")


@given(st.text(max_size=90))
def test_a_slug_is_one_safe_path_component(text: str) -> None:
    name = slug(text)
    assert 1 <= len(name) <= 60
    assert name not in (".", "..") and not name.startswith((".", "-"))
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_a_slug_stays_readable() -> None:
    assert slug("sentence-transformers/GooAQ (v2)") == "sentence-transformers-GooAQ-v2"
    assert slug("../..") == "unnamed"
