"""Texts are split into words, in any script."""

from __future__ import annotations

import random
import re
import unicodedata

from pipeline.mining.words import UNSEEN, UNSPACED, split_words

MARKLESS = "".join(c for c in map(chr, range(33, 0x3100)) if unicodedata.category(c)[0] != "M" and ord(c) not in UNSEEN)


def test_unspaced_scripts_are_split_into_pairs_between_words() -> None:
    assert split_words("a big cat's 7 x-rays") == ["big", "cat", "rays"]
    assert split_words("naïve café größe über") == ["naïve", "café", "größe", "über"]
    assert split_words("人々の暮らし、カラオケ・バー")[:2] == ["人々", "々の"]
    assert "ケ・" not in split_words("カラオケ・バー")
    assert split_words("gpt4是模型 ok 我") == ["gpt4", "是模", "模型", "ok", "我"]


def test_words_keep_their_marks_but_not_invisible_characters() -> None:
    assert split_words("हिन्दी में किताब") == ["हिन्दी", "में", "किताब"]
    assert split_words("ශ්\u200dරී லங்கா") == ["ශ්රී", "லங்கா"]
    assert split_words("the infor\u00admation\ufeff desk") == ["the", "information", "desk"]
    assert split_words("cafe\u0301 \u0301\u0302 x") == ["café"]


def test_words_without_marks_match_the_plain_word_pattern() -> None:
    """The plain pattern is that of scikit-learn and bm25s, `\\b\\w\\w+\\b`, which splits words at marks."""
    draw = random.Random(3)
    for alphabet in (MARKLESS[:94], MARKLESS[:600] + " " * 60, MARKLESS + "人々の暮らしภาษาไทยตั้งชื่อမြန်မာខ្មែរ" * 40):
        unmarked = 0
        for _ in range(300):
            text = unicodedata.normalize("NFC", "".join(draw.choices(alphabet, k=30))).lower()
            expected = []
            for run in re.findall(f"[{UNSPACED}]+|[^{UNSPACED}]+", text):
                pairs = [run[at : at + 2] for at in range(max(1, len(run) - 1))]
                expected += pairs if re.match(f"[{UNSPACED}]", run) else re.findall(r"\b\w\w+\b", run)
            marked = any(unicodedata.category(c)[0] == "M" and not re.match(f"[{UNSPACED}]", c) for c in text)
            if not marked:
                unmarked += 1
                assert split_words(text) == expected
        assert unmarked > 250
