"""Text from data cannot act on the page it is shown on."""

from __future__ import annotations

import ast
import html

import pytest

from pipeline.core.markdown import MAX_CHARACTERS, as_json, escape, literal, sample, without_places

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "**bold** _em_ `code` ~~gone~~ $x$ # head",
    "[text](javascript:alert(1)) ![x](y)",
    "line\n\n# heading\r\n| a | b |",
    "&lt;script&gt; \\ back",
    "\u202egnirts\x00\x1b[31m",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_has_no_active_character_and_reads_the_same(text: str) -> None:
    shown = escape(text)
    assert not set("<>`|*[]\\~$\n\r\x00\x1b\u202e") & set(shown)
    visible = " ".join(text.split()).replace("\u202e", "").replace("\x00", "").replace("\x1b", "")
    assert html.unescape(shown) == visible


def test_a_word_s_own_underscore_stays() -> None:
    assert escape("gooaq-dev_ndcg@10") == "gooaq-dev_ndcg@10"
    assert escape("_em_") == "&#95;em&#95;"


@pytest.mark.parametrize("text", [*HOSTILE, "'\"", "\\<", "\\\\<", "a" * 3000])
def test_a_literal_is_the_text_and_holds_no_tag(text: str) -> None:
    shown = literal(text)
    assert "<" not in shown
    assert "\n" not in shown
    expected = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
    assert ast.literal_eval(shown) == expected


def test_long_samples_are_cut_and_json_holds_no_tag() -> None:
    assert len(sample("a" * 5000)) == MAX_CHARACTERS + 1
    assert "<" not in as_json({"name": "<b>"})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("data.path=/home/someone/pairs.jsonl", "data.path=pairs.jsonl"),
        ("evaluation.collections=[/a/b/scifact,../x/nq]", "evaluation.collections=[scifact,nq]"),
        ("~/models/mine", "mine"),
        ("./runs/x/", "x"),
        (["../a/b", 1, None], ["b", 1, None]),
        ("sentence-transformers/gooaq", "sentence-transformers/gooaq"),
        ("experiment=smoke", "experiment=smoke"),
        ("scripts/train.py", "scripts/train.py"),
    ],
)
def test_paths_of_this_machine_are_cut(value: object, shown: object) -> None:
    assert without_places(value) == shown
