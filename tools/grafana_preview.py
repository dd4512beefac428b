"""Renders the dashboards as pictures from their JSON and SQL, without Grafana.

    python tools/grafana_preview.py [--dsn chdb:///path] [--out docs/images]

Runs the query of every panel on a ledger (by default a synthetic month) with the macros of the data source expanded,
renders the results as HTML, and takes a screenshot with Chromium. Charts are simplified.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "tools")]
COLOURS: Final = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300", "#447ebc", "#c15c17")  # fmt: skip
ONE_COLUMN: Final = 769
"""Pixels below which Grafana puts panels below each other."""
ROW_HEIGHT: Final = 34
"""Pixels of a row of the grid."""
TABLE_LINE: Final = 19
"""Pixels of a line of a table."""


@dataclass(frozen=True)
class Window:
    """Time range and variables of a dashboard."""

    since: datetime
    until: datetime
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])
    """Variable -> selected values; a missing variable is "all" (or empty)."""
    points: int = 60

    @property
    def step(self) -> int:
        """Seconds per point."""
        whole = (self.until - self.since).total_seconds() / self.points
        return next((step for step in (60, 300, 900, 3600, 10800, 21600, 43200) if step >= whole), 86400)


def expand(sql: str, window: Window) -> str:
    """Expands macros and variables as the data source does (for $__conditionalAll: the browser)."""
    begin, end = int(window.since.timestamp()), int(window.until.timestamp())
    while (at := sql.find("$__conditionalAll(")) >= 0:
        inside, after = _call(sql, at + len("$__conditionalAll("))
        condition, _, variable = inside.rpartition(",")
        sql = sql[:at] + (condition if window.chosen.get(variable.strip()[1:]) else "1=1") + sql[after:]
    for name, made in {
        "timeFilter": lambda c: f"{c} >= toDateTime({begin}) AND {c} <= toDateTime({end})",
        "dateFilter": lambda c: (
            f"{c} >= toDate('{window.since:%Y-%m-%d}') AND {c} <= toDate('{window.until:%Y-%m-%d}')"
        ),
        "timeInterval": lambda c: f"toStartOfInterval(toDateTime({c}), INTERVAL {window.step} second)",
    }.items():
        while (at := sql.find(f"$__{name}(")) >= 0:
            inside, after = _call(sql, at + len(f"$__{name}("))
            sql = sql[:at] + made(inside) + sql[after:]
    sql = sql.replace("$__fromTime", f"toDateTime({begin})").replace("$__toTime", f"toDateTime({end})")
    for name, values in window.chosen.items():
        quoted = ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in values)
        sql = sql.replace(f"${{{name}:singlequote}}", quoted)
    sql = sql.replace("$request", next(iter(window.chosen.get("request", ())), ""))
    left = re.search(r"\$\w+|\$\{", sql)
    if left:
        raise ValueError(f"{left[0]} is not expanded in: {sql}")
    return sql


def _call(sql: str, start: int) -> tuple[str, int]:
    """The text from `start` to the closing parenthesis of the group around it, and the position after that."""
    depth, at = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        at += 1
    return sql[start : at - 1], at


def shown(value: Any, unit: str) -> str:
    """Formats a value in its unit."""
    match value:
        case None:
            return "-"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case date():
            return f"{value}"
        case list() | tuple():
            return ", ".join(map(str, value))
        case str() | bool():
            return str(value)
        case _:
            return _number(float(value), unit)


def _number(number: float, unit: str) -> str:
    if unit == "currencyUSD":
        amount = round(abs(number), 6)
        sign = "-" if number < 0 < amount else ""
        return f"{sign}${amount:,.2f}" if amount >= 1 or not amount else f"{sign}${amount:.6f}"
    if unit == "percentunit":
        return f"{round(number, 3) + 0.0:.1%}"
    if unit == "dateTimeAsLocal":
        return f"{datetime.fromtimestamp(number / 1000, UTC):%Y-%m-%d %H:%M}" if number else "-"
    if unit == "s":
        return (
            f"{number:.2f} s"
            if number < 120
            else f"{number / 60:.0f} min"
            if number < 7200
            else f"{number / 86400:.1f} d"
        )
    return f"{number:,.0f}" if number == int(number) or abs(number) > 100 else f"{number:,.3g}"


def draw(panel: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Renders the body of a panel as HTML."""
    defaults = panel["fieldConfig"]["defaults"]
    if not rows:
        return "<div class=none>No data</div>"
    match panel["type"]:
        case "stat" if panel["options"]["graphMode"] == "area":
            return _trend(panel, rows)
        case "stat":
            value = rows[0][0]
            limit = next((step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None), None)
            red = limit is not None and value is not None and float(value) >= limit
            colour = "#f2495c" if red else "#73bf69" if limit is not None else "#ffffff"
            return f"<div class=stat style='color:{colour}'>{html.escape(shown(value, defaults['unit']))}</div>"
        case "timeseries":
            return _series(panel, columns, rows)
        case "bargauge" | "barchart":
            top = max(float(row[1] or 0) for row in rows) or 1
            return "".join(
                f"<div class=bar><span>{html.escape(str(row[0]))}</span><i style='width:{55 * float(row[1] or 0) / top:.1f}%'></i>"
                f"<b>{html.escape(shown(row[1], defaults['unit']))}</b></div>" for row in rows
            )  # fmt: skip
        case _:
            return _table(panel, columns, rows)


def _trend(panel: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> str:
    """The value of this period with its course, and that of the one before."""
    adds_up = panel["options"]["reduceOptions"]["calcs"] == ["sum"]
    parts: list[str] = []
    for name in ("this period", "the period before"):
        values = [float(row[2]) for row in rows if row[1] == name and row[2] is not None]
        if not values:
            continue
        text = shown(sum(values) if adds_up else values[-1], panel["fieldConfig"]["defaults"]["unit"])
        top = max(values) or 1
        points = " ".join(
            f"{1000 * n / max(1, len(values) - 1):.1f},{300 * (1 - value / top):.1f}" for n, value in enumerate(values)
        )
        course = f"<svg viewBox='0 0 1000 300' preserveAspectRatio=none><polyline points='{points}' fill=none stroke='#6e9fff' stroke-width=2 vector-effect='non-scaling-stroke'/></svg>"
        parts.append(f"<div class=axis>{name}</div><div class=trend>{html.escape(text)}</div>{course}")
    return "".join(parts)


def _table(panel: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    units: dict[str, str] = {}
    for override in panel["fieldConfig"]["overrides"]:
        for each in override["properties"]:
            if each["id"] == "unit":
                units[override["matcher"]["options"]] = each["value"]
    fitting = max(1, int((panel["gridPos"]["h"] * ROW_HEIGHT - 56) / TABLE_LINE))  # no partial lines
    head = "".join(f"<th>{html.escape(column)}" for column in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(shown(row[n], units.get(columns[n], 'short')))[:200]}" for n in range(len(columns))) for row in rows[:fitting]
    )  # fmt: skip
    return f"<table><tr>{head}{lines}</table>"


def _series(panel: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    named = len(columns) == 3
    lines: dict[str, dict[datetime, float]] = defaultdict(dict)
    for row in rows:
        lines[str(row[1]) if named else columns[1]][row[0]] = float(row[-1] or 0)
    times = sorted({row[0] for row in rows})
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    top = (
        max(
            (
                sum(line.get(t, 0) for line in lines.values())
                if stacked
                else max(line.get(t, 0) for line in lines.values())
            )
            for t in times
        )
        or 1
    )
    low = 0.0 if stacked else min([0.0, *(value for line in lines.values() for value in line.values())])
    width, height = 1000, 300
    step = width / max(1, len(times))
    parts: list[str] = []
    below: dict[datetime, float] = defaultdict(float)
    for colour, line in zip(COLOURS * 9, lines.values(), strict=False):
        if stacked:
            for number, t in enumerate(times):
                value = line.get(t, 0)
                parts.append(
                    f"<rect x={number * step:.1f} y={height * (1 - (below[t] + value) / top):.1f} width={step * 0.85:.1f} height={height * value / top:.1f} fill='{colour}'/>"
                )
                below[t] += value
        else:
            points = " ".join(
                f"{(times.index(t) + 0.5) * step:.1f},{height * (top - value) / (top - low):.1f}"
                for t, value in sorted(line.items())
            )
            parts.append(
                f"<polyline points='{points}' fill=none stroke='{colour}' stroke-width=2 vector-effect='non-scaling-stroke'/>"
            )
    unit = panel["fieldConfig"]["defaults"]["unit"]
    scale = f"{shown(low, unit)} to {shown(top, unit)}" if low < 0 else shown(top, unit)
    legend = "".join(
        f"<em style='color:{c}'>&#9632; {html.escape(name)}</em> " for c, name in zip(COLOURS * 9, lines, strict=False)
    )
    return (
        f"<div class=axis>{html.escape(scale)}</div><svg viewBox='0 0 {width} {height}' preserveAspectRatio=none>{''.join(parts)}</svg>"
        f"<div class=axis>{times[0]:%m-%d %H:%M} &ndash; {times[-1]:%m-%d %H:%M}</div><div class=legend>{legend}</div>"
    )  # fmt: skip


STYLE: Final = """<meta charset=utf-8><style>*{box-sizing:border-box}body{background:#111217;color:#ccccdc;font:12px sans-serif;margin:8px;position:relative}
h1{font-size:18px;margin:0 0 8px}.p{position:absolute;background:#181b1f;border:1px solid #2c3235;border-radius:2px;padding:6px;overflow:hidden;display:flex;flex-direction:column}
.p h2{font-size:12px;margin:0 0 4px;color:#fff}.row{position:absolute;font-size:14px;color:#fff;padding-top:8px}.stat{font-size:30px;margin:auto}.trend{font-size:20px;color:#fff}
svg{flex:1;min-height:0;width:100%;background:#14161a}.axis,.legend{font-size:10px;color:#8e8e99}.legend em{font-style:normal}
table{border-collapse:collapse;font-size:11px}td,th{text-align:left;padding:2px 8px 2px 0;white-space:nowrap;border-bottom:1px solid #24272b}th{color:#6e9fff}
.bar{display:flex;align-items:center;margin:3px 0}.bar span{width:30%;overflow:hidden;white-space:nowrap}.bar i{background:#73bf69;height:14px;margin-right:6px}.none{margin:auto;color:#8e8e99}</style>"""


def places(panels: Sequence[Mapping[str, Any]], width: int) -> list[tuple[float, float, float, float]]:
    """(left, top, width, height) of each panel in rows of the grid: below 769 pixels Grafana has one column."""
    if width >= ONE_COLUMN:
        return [(p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in panels]
    heights = [panel["gridPos"]["h"] for panel in panels]
    return [(0, sum(heights[:number]), 24, height) for number, height in enumerate(heights)]


def page(made: Mapping[str, Any], ask: Any, window: Window, width: int = 1600) -> tuple[str, int]:
    """Renders a dashboard as HTML of so many pixels and returns it with its height. `ask`: SQL -> (columns, rows)."""
    unit_x, unit_y = (width - 20) / 24, ROW_HEIGHT
    parts: list[str] = []
    bottom = 0
    for panel, (left, top, columns_wide, rows_high) in zip(made["panels"], places(made["panels"], width), strict=True):
        box = f"left:{left * unit_x:.0f}px;top:{top * unit_y + 36:.0f}px;width:{columns_wide * unit_x - 6:.0f}px;height:{rows_high * unit_y - 6:.0f}px"
        bottom = max(bottom, int((top + rows_high) * unit_y) + 60)
        if panel["type"] == "row":
            parts.append(f"<div class=row style='{box}'>{html.escape(panel['title'])}</div>")
            continue
        columns, rows = ask(expand(panel["targets"][0]["rawSql"], window))
        parts.append(
            f"<div class=p style='{box}'><h2>{html.escape(panel['title'])}</h2>{draw(panel, columns, rows)}</div>"
        )
    return f"{STYLE}<h1>{html.escape(made['title'])}</h1>{''.join(parts)}", bottom


def screenshot(text: str, width: int, height: int, picture: Path) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        sys.exit("pictures need Chromium: apt install chromium")
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "page.html"
        source.write_text(text, encoding="utf-8")
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={directory}/profile", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run", f"--window-size={width},{height}", f"--screenshot={picture}", source.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> None:
    from grafana import DASHBOARDS, dashboard

    import synthetic
    from spanledger_clickhouse.database.connection import open_client, resolve_target

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", help="DSN of a ledger (default: a synthetic month)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    parser.add_argument(
        "--width", type=int, default=1600, help="pixels (default 1600; below 769 in one column, as in Grafana)"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        where = resolve_target(asked.dsn or f"chdb://{directory}/ledger")
        now = datetime.now(UTC)
        with open_client(where) as client:
            if not asked.dsn:
                synthetic.open_shop(client, where, now)
            client.command(f"USE `{where.database}`")

            def ask(sql: str) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
                found = client.query(sql)
                return found.column_names, found.result_rows

            asked.out.mkdir(parents=True, exist_ok=True)
            for made in DASHBOARDS:
                days = int(made.range.removeprefix("now-").removesuffix("d"))
                text, height = page(
                    json.loads(json.dumps(dashboard(made))), ask, Window(now - timedelta(days=days), now), asked.width
                )
                screenshot(text, asked.width, height, asked.out / f"{made.uid}.png")
                print(asked.out / f"{made.uid}.png")


if __name__ == "__main__":
    main()
