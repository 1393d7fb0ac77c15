"""CSV and TSV: fields and line numbers, one sentence for each broken file, and rows that a stray quote joins."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pair_files import data_config, load_split, pair_rows, refusal, write_rows

from pipeline.data.readers import read


def test_csv_reads_quoted_and_long_fields_with_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        '\ufeffquestion,answer\r\n"a ""quoted"", one","two\nlines"\r\n\r\nb,'.encode() + b"x" * 1_000_000 + b"\r\n"
    )
    rows = read(path, data_config(path)).rows
    assert rows.questions == ['a "quoted", one', "b"]
    assert rows.answers == ["two\nlines", "x" * 1_000_000]
    assert rows.lines == [2, 5]


def test_csv_skips_blank_lines_before_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n ,\nquestion,answer\na,b\n")
    rows = read(path, data_config(path)).rows
    assert (rows.questions, rows.answers, rows.lines) == (["a"], ["b"], [4])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(
            b"",
            "{path} must hold rows, got an empty file. Write a header line, then one row per line.",
            id="empty file",
        ),
        pytest.param(
            b"\n \r\n",
            "{path} must hold rows, got an empty file. Write a header line, then one row per line.",
            id="blank lines",
        ),
        pytest.param(
            b"\nq,answer\na,b\n",
            "{path}, line 2 must have the column 'question', got the columns 'q', 'answer'. ",
            id="missing column after a blank line",
        ),
        pytest.param(
            b"question,answer\n",
            "{path} must hold rows, got an empty file. Write one question and answer per line.",
            id="header alone",
        ),
        pytest.param(
            b"q,answer\na,b\n",
            "{path}, line 1 must have the column 'question', got the columns 'q', 'answer'. "
            "Name it: data.question_column=<column>. The first line must name the columns.",
            id="missing column",
        ),
        pytest.param(
            b"question;answer\na;b\n",
            "{path}, line 1 must have the column 'question', got the columns 'question;answer'. "
            "They are separated by ';': save the file with commas, or with tabs as .tsv.",
            id="semicolons",
        ),
        pytest.param(
            b"question,answer\na,b\na,b,c\n",
            "{path}, line 3 must have 2 fields, got 3: 'a,b,c'. "
            "Quote a field that holds the separator, or save the file again as CSV.",
            id="extra field",
        ),
        pytest.param(
            b'question,answer\na,"b\n',
            "{path}, line 2 must be valid CSV, got unexpected end of data. ",
            id="open quote in the last line",
        ),
        pytest.param(
            b'question,answer\na,b\n"c,d\n' + b"e,f\n" * 40,
            "{path}, line 3 must be valid CSV, got unexpected end of data, 40 lines further on. Repair its quotes, ",
            id="open quote",
        ),
        pytest.param(
            b'question,answer\na,b\n"c,d\n' + b"e,f\n" * 40 + b'g,"h"\n',
            "{path}, line 3 must be valid CSV, got ',' expected after '\"', 41 lines further on. Repair its ",
            id="open quote and a later quote",
        ),
        pytest.param(
            b"question,answer\ra,b\r",
            "{path}, line 1 must end in LF or CRLF, got a lone CR outside quotes. "
            "Save the file with LF or CRLF line ends, and quote a field that holds a CR.",
            id="lines end in CR",
        ),
        pytest.param(
            b'question,answer\na,"b\rb"\nc\rc,d\n',
            "{path}, line 3 must end in LF or CRLF, got a lone CR outside ",
            id="CR within a field",
        ),
        pytest.param(
            b"question,answer\na,b\n\xe9,c\n", "{path}, line 3 must be UTF-8, got ", id="not UTF-8"
        ),
        pytest.param(
            b"question,answer,answer\na,b,c\n",
            "{path}, line 1 must have the column 'answer' once, got 2 of them. "
            "Rename one of them, or name another: data.answer_column=<column>.",
            id="column twice",
        ),
    ],
)  # fmt: skip
def test_broken_csv_is_refused_with_its_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refusal(path).startswith(sentence.format(path=path))


@pytest.mark.parametrize(("suffix", "mark", "kind"), [("tsv", "\t", "TSV"), ("csv", ",", "CSV")], ids=["TSV", "CSV"])
def test_refusal_names_csv_or_tsv_by_the_suffix(tmp_path: Path, suffix: str, mark: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(f'question{mark}answer\na{mark}b\n"c{mark}d\ne{mark}f\n')
    assert refusal(path) == (
        f"{path}, line 3 must be valid {kind}, got unexpected end of data, 1 line further on. "
        f"Repair its quotes, or save the file again as {kind}."
    )
    path.write_text(f"question{mark}answer\na{mark}b{mark}c\n")
    assert refusal(path).endswith(f"Quote a field that holds the separator, or save the file again as {kind}.")


# Rows that a stray quote joins


def joined_row_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in warnings if "look like rows" in message]


def test_rows_joined_by_a_stray_quote_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"what is thing {i}\tThing {i}, so to say, is {i}." for i in range(400)]
    for i in range(3, 396, 9):  # these open a field, and the 12" three rows below closes it
        lines[i] = lines[i].replace("\t", '\t"Hello ')
        lines[i + 3] += ' and 12"'
    path = tmp_path / "a.tsv"
    path.write_text("question\tanswer\n" + "".join(f"{line}\n" for line in lines))
    split = load_split(path)
    assert split.statistics["rows_read"] == 400 - 44 * 3
    (message,) = joined_row_warnings(caplog)
    assert message.startswith(
        f"{path}: 132 lines within 44 quoted fields look like rows, the first from line 5 on; they are read as text."
    )


@pytest.mark.parametrize(
    ("mark", "rows", "joined", "warns"),
    [
        ("\t", 300, 3, True),
        ("\t", 150, 2, False),
        ("\t", 400, 3, False),
        ("\t", 2000, 11, True),
        (",", 300, 10, True),
        (",", 300, 9, False),
    ],
    ids=["one in a hundred", "too few", "a smaller share", "many", "ten between commas", "nine between commas"],
)
def test_rows_joined_by_one_quote_warn_by_share_and_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mark: str, rows: int, joined: int, warns: bool
) -> None:
    lines = [f"what is thing {i}{mark}Thing {i} is {i}." for i in range(rows + joined)]
    lines[9] = lines[9].replace(mark, f'{mark}"Hello ')
    lines[9 + joined] += ' and 12"'
    path = tmp_path / ("a.csv" if mark == "," else "a.tsv")
    path.write_text(f"question{mark}answer\n" + "".join(f"{line}\n" for line in lines))
    assert load_split(path).statistics["rows_read"] == rows
    messages = joined_row_warnings(caplog)
    assert bool(messages) == warns
    assert all(f"{joined} lines within a quoted field look like rows, the first from line 11" in m for m in messages)


def test_short_prose_in_two_columns_with_commas_is_not_taken_for_joined_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {**row, "answer": f"It is {i}, as said.\nMore, then.\nSo, the end."} for i, row in enumerate(pair_rows(150))
    ]
    load_split(write_rows(tmp_path / "prose.csv", rows))
    assert not joined_row_warnings(caplog)


def test_prose_with_line_breaks_is_not_taken_for_joined_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["It is, as said.\n\nMore of it, then, follows:\n- one, or\n- two", "First.\nSecond, the last.", "x"]
    rows = [{"question": f"what is {i}", "answer": texts[i % 3]} for i in range(300)]
    load_split(write_rows(tmp_path / "prose.csv", rows))
    assert not joined_row_warnings(caplog)
