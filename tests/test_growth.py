"""Growth with the rows: every kind at every size, each point its own process, as JSON and as a picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.benchmark import growth, growth_point
from pipeline.benchmark.curves import Panel, decades, svg


def test_points_stand_where_their_powers_of_ten_are() -> None:
    picture = ElementTree.fromstring(svg("a < b", "rows", [Panel("seconds", {"train": [(10, 1), (1000, 100)]})]))
    (line,) = picture.iter("{http://www.w3.org/2000/svg}polyline")
    assert line.get("points") == "0.0,280.0 380.0,0.0"
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["seconds", "10", "100", "1,000", "1", "10", "100", "rows", "● train"]
    assert picture[0].text == "a < b"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.58, 0.6], (-1, 0)), ([1.0, 10.0], (0, 1)), ([5.0], (0, 1)), ([10.0], (1, 2)), ([999, 1001], (2, 4))],
)
def test_axes_end_at_powers_of_ten(values: list[float], expected: tuple[int, int]) -> None:
    assert decades(values) == expected


def test_rows_are_each_question_with_its_passage_and_five_others(tmp_path: Path) -> None:
    growth_point._write_rows(13, 3, tmp_path)
    question, passage, label = (np.load(tmp_path / f"{name}.npy") for name in ("question", "passage", "label"))
    assert question.tolist() == [0] * 6 + [1] * 6 + [2]
    assert label.tolist() == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert (passage[label == 1] == question[label == 1]).all()
    assert passage.min() >= 0 and passage.max() < 3


def test_lines_are_read_in_chunks_and_no_further(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("".join(f"text {n}\n" for n in range(20_000)))
    chunks = list(growth_point.read_lines(tmp_path / "x", 10_000))
    assert list(map(len, chunks)) == [8192, 1808]
    assert growth_point.texts(tmp_path / "x", 10_000)[-1] == "text 9999"


@pytest.mark.slow
def test_the_command_measures_every_kind_at_every_size(root: Path, tmp_path: Path) -> None:
    words = ["case=growth", "rows=1500", "note=a test", f"outputs_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "scripts/benchmark.py", *words], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "benchmarks" / "growth.json").read_text())
    assert growth.table(found) in done.stdout
    assert (found["points"], found["points_asked"], found["note"]) == (8, 8, "a test")
    assert list(found["curves"]) == ["tokenise", "train", "evaluate", "mine"]
    for curve in found["curves"].values():
        assert [at["rows"] for at in curve] == [1000, 1500]
        for at in curve:
            assert at["seconds"] > 0
            assert 0 < at["base_rss_gib"] < at["peak_rss_gib"]
    peaks = [at["peak_rss_gib"] for at in found["curves"]["train"]]
    assert max(peaks) - min(peaks) < 0.1
    picture = ElementTree.parse(tmp_path / "benchmarks" / "growth.svg").getroot()
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}polyline"))) == 8
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == 16
