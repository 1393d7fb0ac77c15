"""Progress: quiet off a terminal, drawn on one, and never in the way of the values."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import progress


def test_a_short_step_says_nothing_off_a_terminal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with progress.bar("counting", 5) as moving:
        moving.advance(5)
    assert moving.done == 5
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


class Clock:
    """Seconds that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_long_step_leaves_one_line_with_count_and_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    with progress.bar("training", total=3000) as moving:
        moving.advance(1200)
        clock.now += 12
    assert [record.getMessage() for record in caplog.records] == ["training: 1,200 in 12.0 s"]


def test_off_a_terminal_a_line_a_minute_says_how_far_a_step_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    with progress.bar("training", total=1000, done=400) as moving:  # 400 were an earlier run's
        for _ in range(8):
            clock.now += 15
            moving.advance(25, "loss 0.5")
    with progress.bar("reading") as moving:
        clock.now += 61
        moving.advance(7)
    assert [record.getMessage() for record in caplog.records] == [
        "training: 500 of 1,000, about 5 min 0 s left, loss 0.5",
        "training: 600 of 1,000, about 4 min 0 s left, loss 0.5",
        "training: 600 in 2 min 0 s",
        "reading: 7 in 1 min 1 s",
        "reading: 7 in 1 min 1 s",
    ]


def test_a_long_loop_says_every_minute_how_far_it_is_and_counts_all_at_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock, seen = Clock(monkeypatch), list[int]()
    for item in progress.counted(iter(range(2_500)), "reading rows"):
        seen.append(item)
        clock.now += 0.07
    assert seen == list(range(2_500))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "reading rows: 1,000 in 1 min 10 s",
        "reading rows: 2,000 in 2 min 20 s",
        "reading rows: 2,500 in 2 min 55 s",
    ]
    assert list(progress.counted([], "nothing")) == [] and len(caplog.records) == 3


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError), progress.bar("failing", total=1):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (59.97, "1 min 0 s"), (60, "1 min 0 s"), (125.2, "2 min 5 s"), (11530, "3 h 12 min")],
)  # fmt: skip
def test_duration(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


def test_the_console_handler_prints_our_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = progress.ConsoleHandler()
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)  # after construction, as a running bar does
    for name in ("pipeline", "pipeline.mining.miner", "pipelines.other", "codecarbon", "command"):
        handler.handle(logging.LogRecord(name, logging.INFO, __file__, 1, f"from {name}", None, None))
    assert out.getvalue() == "from pipeline\nfrom pipeline.mining.miner\n"


def test_on_a_terminal_bars_are_drawn_nested_and_log_lines_stay_whole(root: Path) -> None:
    code = """
import logging, time
from pipeline.core.progress import ConsoleHandler, bar
logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()])
with bar("outer", total=2) as outer:
    for _ in range(2):
        with bar("inner", 3) as inner:
            for _ in range(3):
                time.sleep(0.15)
                inner.advance()
        logging.getLogger("pipeline.x").info("a whole line")
        outer.advance()
with bar("endless") as endless:
    time.sleep(0.3)
    endless.advance()
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other side closed
            break
        if not piece:
            break
        shown += piece
    assert done.wait() == 0, shown.decode()
    text = shown.decode()
    assert "outer" in text and "inner" in text and "1/2" in text and "left" in text
    assert text.count("a whole line") == 2
    drawn = [line for line in text.splitlines() if "endless" in line]
    assert drawn and not any("left" in line for line in drawn)
