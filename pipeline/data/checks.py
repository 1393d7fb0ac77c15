"""Log messages, warnings and refusals about rows that were read and split. Knows counts; reads and splits nothing."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

from pipeline.config.data import DataConfig, Format, Source
from pipeline.core.errors import DataError, must
from pipeline.core.records import PairRows, fold
from pipeline.data.row_builder import PUT_RIGHT

log = logging.getLogger(__name__)

SURPLUS = "surplus_of_a_held_out_group"
"""Reason to drop a row: its group is held out, but its question is not among those chosen from the group."""

NOTABLE_SHARE = 0.1
"""Share of training rows dropped as surplus above which a warning names a remedy."""

SHOWN_LABELS = 8
"""Most distinct labels that the log lists; for more it gives the range."""

WIDE_INTERVAL_BELOW = 200
PAIRED_SPREAD = 0.31
"""Standard deviation over queries of an nDCG@10 difference, measured on docstrings; used for the warning only."""

WIDEST = 2.0
"""Width of the interval from -1 to 1."""


def say_cleaned(
    counts: Counter[str], cleaned: dict[str, PairRows], whole: dict[str, int], dropped: dict[str, Counter[str]]
) -> None:
    """Log what was repaired while reading, each part's number of usable rows, and why others were dropped."""
    if mended := "; ".join(f"{counts[kind]} {words}" for kind, words in PUT_RIGHT.items() if counts[kind]):
        log.info("fixed while reading: %s", mended)
    for name, part in cleaned.items():
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped[name].items())) or "none"
        log.info("%s: %d of %d rows usable; dropped: %s", name, len(part), whole[name], reasons)
    if (surplus := dropped["train"][SURPLUS]) > whole["train"] * NOTABLE_SHARE:
        log.warning(
            "train: %d of %d rows are in held-out groups and are used in neither training nor evaluation. Lower "
            "data.dev_queries or use smaller groups to keep more", surplus, whole["train"],
        )  # fmt: skip


def say_labels(labels: Sequence[float], threshold: float) -> None:
    """Log the labels and how many of them are positive; warn if the labels differ but all are positive."""
    counts = Counter(labels)
    positive = sum(number for label, number in counts.items() if label >= threshold)
    shown = ", ".join(f"{label:g}: {counts[label]:,}" for label in sorted(counts))
    if len(counts) > SHOWN_LABELS:
        shown = f"from {min(counts):g} to {max(counts):g}, {len(counts):,} different"
    said = f"labels {shown}; positive from data.positive_threshold={threshold:g} up: {positive:,} of {len(labels):,}"
    if positive == len(labels) and len(counts) > 1:
        log.warning(
            "%s. No row counts as a wrong answer: if the lowest labels mean one, raise data.positive_threshold", said
        )
    else:
        log.info("%s", said)


def warn_of_a_wide_interval(dev: PairRows) -> None:
    """Warn if there are so few dev questions, or groups of them, that a difference may remain undecided.

    Intervals resample groups, so the number of groups counts. The forecast is Student's interval with a group's
    questions taken for one.
    """
    questions = list(map(fold, dev.questions))
    group = dict(zip(reversed(questions), reversed(dev.groups or questions), strict=True))  # that of the first row
    number = len(set(group.values()))
    if number < WIDE_INTERVAL_BELOW:
        from scipy import stats

        units = "dev questions"
        if dev.groups is not None:
            units = "group of dev questions" if number == 1 else "groups of dev questions"
        quantile = float(stats.t.ppf(0.975, number - 1)) if number > 1 else math.inf
        width = min(WIDEST, 2 * quantile * PAIRED_SPREAD / math.sqrt(number))
        message = "only %d %s: a 95 %% interval of an nDCG@10 difference will be about %.2f wide"
        log.warning(message, number, units, width)


def more_questions(config: DataConfig) -> str:
    """Return the remedy for too few usable questions. It names only keys that are set or that the format reads."""
    is_packaged, is_beir = config.source is Source.packaged_docs, config.format is Format.beir
    ways = ["Name more libraries in data.packages" if is_packaged else "Give more rows"]
    ways += [f"raise data.{key}" for key in ("rows", "limit") if getattr(config, key) is not None]
    read = [] if is_packaged or is_beir else ["data.question_column", "data.answer_column"]
    read += ["data.positive_threshold"] if is_beir or config.format is Format.labelled else []
    if read:
        ways.append(f"check {', '.join(read[:-1])}{' and ' if read[1:] else ''}{read[-1]}")
    if ways[1:]:
        ways[-1] = f"or {ways[-1]}"
    return f"{', '.join(ways)}."


def name_of(config: DataConfig) -> str:
    """Return the name of the source for error messages."""
    return config.path or "+".join(config.packages)


def refuse_the_same(config: DataConfig, train: PairRows, dev: PairRows) -> None:
    """Refuse a dev file whose pairs are all training pairs too.

    Raises:
        DataError: naming the dev file and the source.
    """
    pairs = {(fold(q), fold(a)) for q, a in zip(train.questions, train.answers, strict=True)}
    if len(dev) and all((fold(q), fold(a)) in pairs for q, a in zip(dev.questions, dev.answers, strict=True)):
        got = f"{len(dev)} rows that are all in {name_of(config)}"
        remedy = "Give other questions, or remove the key to split some off the training rows."
        raise DataError(
            must(f"data.dev_path={config.dev_path}", "hold pairs that are not in the training data", got, remedy)
        )


def refuse_one_text(config: DataConfig, train: PairRows) -> None:
    """Refuse training rows that all hold the same passage, since then there is no wrong answer.

    Raises:
        DataError: naming the source and the passage.
    """
    passages = (fold(text) for texts in (train.answers, *(train.negatives or [])) for text in texts)
    first = next(passages)
    if all(passage == first for passage in passages):  # stops at the first passage that differs
        got = f"the same one in all {len(train)} training rows, {first[:60]!r}"
        remedy = "Name the column of the passages: data.answer_column=<column>."
        raise DataError(must(name_of(config), "hold answers that differ", got, remedy))
