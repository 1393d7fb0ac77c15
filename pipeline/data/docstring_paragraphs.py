"""A docstring's paragraphs in plain words: without markup, code and tables, sorted by section. Knows no files.

Understands the styles of scientific Python: reStructuredText (numpydoc sections, field lists, directives, roles),
Google-style sections and the Markdown of newer libraries.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_PROSE = {"notes", "note", "description", "details", "discussion", "explanation", "algorithm", "overview", "remarks"}
_ENTRIES = {
    "parameters", "other parameters", "args", "arguments", "keyword args", "keyword arguments", "kwargs", "inputs",
    "input", "returns", "return", "yields", "output", "outputs", "attributes", "shape", "params", "parameter",
    "variables", "explanation of parameters",
}  # fmt: skip
_DROPPED = {
    "examples", "example", "see also", "references", "reference", "raises", "raise", "methods", "warns", "usage",
    "doctest", "doctests", "todo", "todos", "receives", "literature", "citations", "citation", "authors", "author",
    "license", "copyright", "history", "properties", "routine listings", "functions", "classes", "contents",
    "example usage", "usage example", "examples using", "ref", "refs", "benchmarks", "import", "raised", "except",
}  # fmt: skip
_TEXT_DIRECTIVES = {"note", "warning", "important", "tip", "hint", "caution", "attention", "admonition", "topic"}

_UNDERLINE = re.compile(r"^([-=~^*\"'#+`.])\1{2,}\s*$")
_TABLE = re.compile(r"^\s*(\+[-=+]+\+|[-=]{2,}(\s+[-=]{2,})+|\|.*\|)\s*$")
_DIRECTIVE = re.compile(r"^\.\.\s+([\w:+-]+?)::\s*(.*)$")
_HEADING = re.compile(r"^(?:#+\s*|\*\*)?([A-Z][A-Za-z ]{2,30}?)(?:\*\*)?:{1,2}(?:\*\*)?$")
_FIELD = re.compile(r"^:(param|parameter|arg|argument|keyword|kwarg|return|returns|attr|ivar|var)\b([^:]*):\s*(.*)$")
_OTHER_FIELD = re.compile(r"^:(type|rtype|raise|raises|meta|vartype|cvar|orphan|yields?)\b[^:]*:")
_NUMPY_ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?:\s*,\s*\*{0,2}[\w.]+)*)\s*:(?:\s+.*|\s*)$")
_GOOGLE_ENTRY = re.compile(
    r"^[-*]?\s*[`*]*(\w+)[`*]*\s*(?:\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))?\s*(?::|--)(?:\s+(.*))?$"
)
_BULLET = re.compile(r"^(?:[-*+•]|\d{1,2}[.)]|\(\w{1,2}\))\s+")

_INLINE = (
    (re.compile(r"<!--.*?-->", re.S), " "),
    (re.compile(r"<(https?://[^>]*)>`?_{0,2}"), " "),
    (re.compile(r"!?\[`?([^\]`]*)`?\]\([^)\s]*\)"), r"\1"),
    (re.compile(r"\((?:see(?: also)?:?\s*)?(?:https?://[^\s)]*|(?:\[[^\]\s]+\]_[,\s]*)+)\)"), " "),
    (re.compile(r"\[`(?:~(?:\w+\.)*)?([^\]`]+)`\]"), r"\1"),
    (re.compile(r":math:`([^`]*)`"), r"\1"),
    (re.compile(r":[\w+.:-]+:`~(?:[\w]+\.)*([^`<]*?)`"), r"\1"),
    (re.compile(r":[\w+.:-]+:`[!]?([^`<]*?)\s*(?:<[^`>]*>)?`"), r"\1"),
    (re.compile(r"``([^`]*)``"), r"\1"),
    (re.compile(r"`([^`<]*?)\s*<[^`>]*>`_{0,2}"), r"\1"),
    (re.compile(r"`([^`]*)`_{0,2}"), r"\1"),
    (re.compile(r"\s*\[(?:\d+|#\w*|[A-Z]\w+\d+\w?)\]_(?!\w)"), ""),
    (re.compile(r"\s*\[\d+(?:\s*,\s*\d+)*\](?=[\s.,;)]|$)"), ""),
    (re.compile(r"\|(\w+)\|"), r"\1"),
    (re.compile(r"</?[A-Za-z][\w-]*(?:\s+[\w-]+=[^>]*)?/?>"), " "),
    (re.compile(r"https?://\S+"), " "),
    (re.compile(r"\*\*(\S(?:[^*]*\S)?)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"\\(?=[*_`|\s])"), ""),
    (re.compile(r"[`\x00-\x08\x0b-\x1f\x7f]"), " "),
    (re.compile(r"\(\s*\)"), "()"),
    (re.compile(r"\((?:see)?\s*,\s*"), "("),
    (re.compile(r"\s+([.,;:!?])(?=\s|$)"), r"\1"),
)
_MARKUP = re.compile(r"[`*|<\[\\\x00-\x08\x0b-\x1f\x7f]|://|\(\s*\)|\s[.,;:!?](?:\s|$)")
"""Matches wherever a pattern of `_INLINE` can; most paragraphs have no match and skip all those patterns."""


@dataclass(slots=True)
class Paragraphs:
    """Paragraphs of a docstring by use, prose or section entries; `lines` are those of the paragraph being read."""

    prose: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    in_entries: bool = False

    def flush(self) -> None:
        """End the paragraph being read: join its lines, convert them to plain words and end them with a full stop."""
        paragraph = plain_words(" ".join(self.lines))
        self.lines = []
        if paragraph:
            paragraph += "" if paragraph.endswith((".", "!", "?", ":", '"', ")")) else "."
            (self.entries if self.in_entries else self.prose).append(paragraph)


def paragraphs(doc: str) -> Paragraphs:
    """Return a docstring's paragraphs in order: its prose, and the descriptions of parameters and results."""
    lines = _blank_out_code(inspect.cleandoc(doc).splitlines())
    found, section, margin, row = Paragraphs(), "", 0, 0
    depth: int | None = None  # indentation of a section's entries, taken from its first line
    while row < len(lines):
        heading = _heading(lines, row)
        if heading:
            found.flush()
            section, margin, depth = heading[0], _indent(lines[row]), None
            found.in_entries = section in _ENTRIES
            row += heading[1]
            continue
        line, text = lines[row], lines[row].strip()
        row += 1
        if not text or _UNDERLINE.match(text):
            found.flush()
        elif section in _DROPPED:
            if margin == _indent(line) and not lines[row - 2].strip() and _is_prose(text):
                section, found.in_entries = "", False
                found.lines.append(text)
        elif _OTHER_FIELD.match(text):
            found.flush()
        elif match := _FIELD.match(text):
            found.flush()
            found.in_entries, section, depth = True, "parameters", -1
            found.lines.append(f"{match[2].split()[-1]}: {match[3]}" if match[2].split() else match[3])
        else:
            depth = _indent(line) if depth is None else depth
            opens = row < len(lines) and bool(lines[row].strip()) and _indent(lines[row]) > _indent(line)
            in_margin = found.in_entries and _indent(line) <= depth
            entry = _entry(line, top=_indent(line) <= margin, opens=opens) if in_margin else None
            if entry is not None or _BULLET.match(text):
                found.flush()
            found.lines.append(_BULLET.sub("", text) if entry is None else entry)
    found.flush()
    return found


def plain_words(text: str) -> str:
    """Replace the markup of one paragraph by words and collapse white space."""
    if not _MARKUP.search(text):
        return " ".join(text.split())
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _blank_out_code(lines: list[str]) -> list[str]:
    """Blank out doctests, fenced and literal blocks, tables, footnotes and directives other than notes and the like."""
    kept: list[str] = []
    row = 0
    while row < len(lines):
        line, text = lines[row], lines[row].strip()
        directive = _DIRECTIVE.match(text)
        if text.startswith(">>>"):
            while row < len(lines) and lines[row].strip():
                row += 1
            kept.append("")
            continue
        if text.startswith(("```", "~~~")):
            row += 1
            while row < len(lines) and not lines[row].strip().startswith(text[:3]):
                row += 1
            kept.append("")
        elif directive and directive[1] in _TEXT_DIRECTIVES:
            kept += ["", " " * _indent(line) + directive[2]]
        elif text.startswith(".. ") or text == "..":
            row = _skip_indented(lines, row)
            kept.append("")
            continue
        elif text.endswith("::") and not _names_section(text):
            kept.append(line.rstrip()[:-1] if text != "::" else "")
            row = _skip_indented(lines, row)
            kept.append("")
            continue
        else:
            kept.append("" if _TABLE.match(line) else line)
        row += 1
    return kept


def _skip_indented(lines: list[str], row: int) -> int:
    """Return the first row after `row` that is neither blank nor indented more deeply."""
    margin = _indent(lines[row])
    row += 1
    while row < len(lines) and (not lines[row].strip() or _indent(lines[row]) > margin):
        row += 1
    return row


def _names_section(text: str) -> str | None:
    """Return the lower-case name of a known section if the line is its Google-style heading (`Args:`)."""
    match = _HEADING.match(text)
    return match[1].lower() if match and match[1].lower() in _PROSE | _ENTRIES | _DROPPED else None


def _heading(lines: list[str], row: int) -> tuple[str, int] | None:
    """Return the lower-case name of the section that starts at `row` and its heading's number of lines, or None."""
    text = lines[row].strip()
    if not text:
        return None
    if row + 1 < len(lines) and _UNDERLINE.match(lines[row + 1].strip()) and len(text) < 80:
        return text.strip(":*# ").lower(), 2
    name = _names_section(text)
    if name:
        return name, 1
    if text.startswith("#"):
        return text.strip(":*# ").lower(), 1
    return None


def _entry(line: str, *, top: bool, opens: bool) -> str | None:
    """Return a parameter's opening line as `name: description`, without its type; None if the line opens no entry."""
    text = line.strip()
    numpy_style = _NUMPY_ENTRY.match(text)
    if top and numpy_style:
        return f"{numpy_style[1]}:"
    google_style = _GOOGLE_ENTRY.match(text)
    if google_style:
        return f"{google_style[1]}: {google_style[2] or ''}"
    # The line above an indented description is a bare name or, for results, a bare type.
    return ("" if " " in text else f"{text.strip('`')}:") if opens else None


def _is_prose(text: str) -> bool:
    """Return whether an unindented line after a dropped Google-style section is prose again, not another item."""
    return len(text.split()) >= 8 and text[0].isupper() and not text.startswith(("[", "*", "-"))
