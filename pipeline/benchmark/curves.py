"""Curves on logarithmic axes as an SVG picture. Pure: numbers in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377")
"""Colours of Paul Tol's bright scheme, which colour-blind readers can tell apart."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP = 380, 280, 64, 40, 44
"""Size of one panel's frame and its margins, in pixels. The right margin holds half of the label 1,000,000."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot on two logarithmic axes: its title, and name → (x, y) points, all above 0."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]


def svg(title: str, along: str, panels: Sequence[Panel]) -> str:
    """Draw the panels side by side; `title` is the picture's title, `along` the label of every x axis."""
    each = LEFT + WIDTH + RIGHT
    width = each * len(panels)
    height = TOP + HEIGHT + 76
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><title>{escape(title)}</title><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({LEFT + number * each},{TOP})">')
        parts += _panel(panel, along)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the exponents of the two powers of ten that enclose the values, at least one apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _panel(panel: Panel, along: str) -> list[str]:
    points = [point for series in panel.series.values() for point in series]
    columns, rows = decades([x for x, _ in points]), decades([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - columns[0]) / (columns[1] - columns[0])
        up = (math.log10(y) - rows[0]) / (rows[1] - rows[0])
        return round(right * WIDTH, 1), round((1 - up) * HEIGHT, 1)

    parts = [f'<text x="0" y="-18" font-size="14">{escape(panel.title)}</text>']
    for power in range(columns[0], columns[1] + 1):
        x, _ = place(10.0**power, 10.0 ** rows[0])
        parts.append(f'<path d="M{x} 0V{HEIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT + 18}" text-anchor="middle">{10.0**power:,.10g}</text>')
    for power in range(rows[0], rows[1] + 1):
        _, y = place(10.0 ** columns[0], 10.0**power)
        parts.append(f'<path d="M0 {y}H{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="-8" y="{y + 4}" text-anchor="end">{10.0**power:,.10g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 38}" text-anchor="middle">{escape(along)}</text>')
    for number, (name, series) in enumerate(panel.series.items()):
        colour, placed = COLOURS[number % len(COLOURS)], [place(*point) for point in series]
        line = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in placed]
        parts.append(f'<text x="{number * 90}" y="{HEIGHT + 62}" fill="{colour}">● {escape(name)}</text>')
    return parts
