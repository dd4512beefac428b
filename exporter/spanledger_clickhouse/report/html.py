"""A report as one HTML file: no scripts or external resources, charts as inline SVG, suitable for print and email."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from spanledger_clickhouse.money import usd
from spanledger_clickhouse.printable import visible, without_middle
from spanledger_clickhouse.report.queries import Report
from spanledger_clickhouse.report.sections import NO_FEATURE, Section, headline, sections, title

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --quiet: #5d6875; --line: #dfe4ea; --bar: #2f6fb2; --over: #b3261e; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p.when { color: var(--quiet); margin: .2rem 0 1rem; } p.headline { font-size: 1.15rem; margin: 0 0 1rem; } p.note { color: var(--quiet); margin: .4rem 0 0; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } td:first-child, th:first-child { text-align: left; padding-left: 0; } th { font-weight: 600; color: var(--quiet); }
table.facts td { text-align: left; } table.facts td:first-child { width: 18rem; color: var(--quiet); }
.whole { white-space: nowrap; }
.over { color: var(--over); font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--quiet); }
@page { size: A4; margin: 14mm; }
@media print { body { margin: 0; max-width: none; font-size: 9.5pt; } h2 { break-after: avoid; margin-top: 1rem; } td, th { padding: .15rem .4rem; } tr, figure { break-inside: avoid; } }
figure { margin: 1rem 0; } figcaption { color: var(--quiet); font-size: .9rem; }
"""

NOWRAP_CHARACTERS = 20
"""Cells up to this many characters are not wrapped."""


def page(report: Report) -> str:
    """Renders the report as an HTML document."""
    heading = title(report)
    over = ' class="headline over"' if report.over_budget else ' class="headline"'
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{heading}</title>',
        f"<style>{STYLE}</style></head><body>",
        f'<h1>{heading}</h1><p class="when">{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC</p>',
        f"<p{over}>{escape(headline(report))}</p>",
        _figure(
            f"Daily cost, {report.daily[0][0]:%d %b} to {report.daily[-1][0]:%d %b %Y}; the period is darker",
            _daily_chart(report),
        ),
    ]
    for section in sections(report):
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.title == "Cost by feature" and report.features:
            parts.append(_figure("Cost by feature", _feature_chart(report)))
        parts.append(_table(section))
        if section.note:
            parts.append(f'<p class="note">{escape(section.note)}</p>')
    return "\n".join([*parts, "</body></html>", ""])


def _table(section: Section) -> str:
    if not section.rows:
        return "" if section.note else "<p>none</p>"
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in section.rows)
    if not any(section.head):
        return f'<table class="facts">{rows}</table>'
    head = "".join(f"<th>{escape(name)}</th>" for name in section.head)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _cell(text: str) -> str:
    marks = ["over"] if text.endswith(("OVER BUDGET", " OVER")) else []
    if len(text) <= NOWRAP_CHARACTERS and ", " not in text:
        marks.append("whole")
    mark = f' class="{" ".join(marks)}"' if marks else ""
    return f"<td{mark}>{escape(text)}</td>"


def _figure(caption: str, svg: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _daily_chart(report: Report) -> str:
    """Chart of daily cost; days of the reported period are darker. A 30th of the budget is a line, if it fits the scale."""
    width, height, left, bottom = 900, 200, 84, 24
    costs = [float(cost) for _, cost in report.daily]
    budget = float(report.budget_usd) / 30 if report.budget_usd else 0.0
    top = max([*costs, budget if budget < 3 * max(costs, default=0) else 0.0, 1e-9]) * 1.08
    step = (width - left) / max(1, len(costs))
    scale = (height - bottom) / top
    parts: list[str] = []
    for tick in _round_ticks(top):
        y = height - bottom - tick * scale
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe4ea"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{usd(tick).removesuffix(".00")}</text>')
    for number, ((day, cost), value) in enumerate(zip(report.daily, costs, strict=True)):
        x, tall = left + number * step, value * scale
        color = "#2f6fb2" if day >= report.since.date() else "#a9c4e0"
        tooltip = f"<title>{day:%Y-%m-%d}: {usd(cost)}</title>"
        parts.append(_rect(x + 1, height - bottom - tall, step - 2, tall, color, tooltip))
        if number % max(7, len(costs) // 5) == 0:
            anchor = "middle" if x + step < width - 20 else "end"
            label_x = x + step / 2 if anchor == "middle" else width
            parts.append(f'<text x="{label_x:.1f}" y="{height - 6}" text-anchor="{anchor}">{day:%d %b}</text>')
    if 0 < budget < top:
        y = height - bottom - budget * scale
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#b3261e" stroke-dasharray="5 4"/>'
        )
        parts.append(f'<text x="{left + 4}" y="{y - 4:.1f}" style="fill:#b3261e">1/30 of the monthly budget</text>')
    return _svg(width, height, parts)


def _round_ticks(top: float) -> list[float]:
    """At most five values up to `top`, each a multiple of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= top)
    return [step * number for number in range(1, int(top / step) + 1)]


def _feature_chart(report: Report) -> str:
    """Bar chart of the ten most expensive features."""
    width, row, left = 900, 26, 210
    shown = report.features[:10]
    top = max([float(f.cost_usd or 0) for f in shown] + [1e-9])
    parts: list[str] = []
    for number, feature in enumerate(shown):
        y, wide = number * row, float(feature.cost_usd or 0) / top * (width - left - 110)
        name = feature.feature or NO_FEATURE
        parts.append(
            f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(without_middle(visible(name), 28))}</text>'
        )
        parts.append(_rect(left, y + 5, wide, row - 10, "#2f6fb2" if feature.feature else "#9aa4af", ""))
        parts.append(f'<text x="{left + wide + 8:.1f}" y="{y + 17}">{usd(feature.cost_usd)}</text>')
    return _svg(width, row * len(shown), parts)


def _rect(x: float, y: float, width: float, height: float, color: str, inside: str) -> str:
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect {shape} fill="{color}">{inside}</rect>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
