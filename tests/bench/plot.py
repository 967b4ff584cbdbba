"""Charts of the report as SVG, readable on light and on dark pages."""

import html
import math

WIDTH, LABELS, MARGIN, BAR, GAP = 960, 350, 24, 12, 13
COLOURS = ["ours", "second", "third", "fourth"]
STYLE = """
    text { font: 13px system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #24292f }
    .title { font-size: 17px; font-weight: 600 }
    .small { font-size: 11px; fill: #656d76 }
    .value { font-size: 11px }
    .strong { font-weight: 600 }
    .grid { stroke: #8c959f; stroke-opacity: .28 }
    .base { stroke: #57606a; stroke-width: 1.5 }
    .spread { stroke: #24292f; stroke-opacity: .65 }
    .ours { fill: #1f7a4d } .second { fill: #8f9aa6 } .third { fill: #c3a06a } .fourth { fill: #a58fb8 }
    @media (prefers-color-scheme: dark) {
        text { fill: #e6edf3 }
        .small { fill: #8d96a0 }
        .base { stroke: #9aa4af }
        .spread { stroke: #e6edf3 }
        .ours { fill: #3fb27f } .second { fill: #6e7781 } .third { fill: #9c7f4e } .fourth { fill: #7f6a93 }
    }
"""


def draw(chart, footer):
    """chart: {"title", "subtitle", "kind", "rows": [{"label", "bars": [[name, median, lowest, highest], ...]}]}.

    kind "ratios": bars to the right of 1.00 (of chart["base"]) are faster, on a logarithmic scale; "amounts": from zero.
    A row that lacks a peer just lacks its bar.
    """
    rows = chart["rows"]
    names = list(dict.fromkeys(["sendimage", *(bar[0] for row in rows for bar in row["bars"])]))
    values = [value for row in rows for bar in row["bars"] for value in bar[1:]]
    x, ticks = (ratio_scale if chart["kind"] == "ratios" else amount_scale)(values)
    shapes = [text(MARGIN, 34, chart["title"], "title"), text(MARGIN, 54, chart["subtitle"], "small")]
    shapes += legend(names, chart)
    top = y = 132
    body = []
    for row in rows:
        middle = y + BAR * len(row["bars"]) / 2
        body.append(text(LABELS - 14, middle + 4, row["label"], anchor="end"))
        for bar in row["bars"]:
            body += one_bar(chart, x, y, bar, COLOURS[names.index(bar[0]) % len(COLOURS)])
            y += BAR
        y += GAP
    bottom = y - GAP / 2
    for value, label in ticks:
        base = chart["kind"] == "ratios" and value == 1
        shapes.append(f'<line class="{"base" if base else "grid"}" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top - 8}" y2="{bottom:.0f}"/>')
        shapes.append(text(x(value), top - 14, label, "small", "middle"))
    words, lines = footer.split(" · "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 130:
            lines.append("")
        lines[-1] += (" · " if lines[-1] else "") + word
    foot = [text(MARGIN, bottom + 24 + 16 * number, line, "small") for number, line in enumerate(lines)]
    height = round(bottom + 24 + 16 * len(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{html.escape(chart["title"])}">\n<style>{STYLE}</style>\n' + "\n".join(shapes + body + foot) + "\n</svg>\n"
    )


def of_table(section, column, title):
    """A chart of the amounts in one column of the section's first table; sendimage's rows stand out."""
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    head = [line for line in section.splitlines() if line.startswith("|")][0].strip("|").split("|")
    place = [name.strip() for name in head].index(column)
    rows = []
    for row in cells[2:]:
        value = float(row[place].replace(",", "").split()[0])
        rows.append({"label": row[0], "bars": [["sendimage" if "sendimage" in row[0] else "others", value, value, value]]})
    rows.sort(key=lambda row: -row["bars"][0][1])
    return {"kind": "amounts", "title": title, "subtitle": column, "rows": rows}


def one_bar(chart, x, y, bar, colour):
    name, median, low, high = bar
    start = x(1) if chart["kind"] == "ratios" else x(0)
    left, right = sorted((start, x(median)))
    middle = y + BAR / 2 - 0.5
    ours = colour == COLOURS[0]
    shown = f"{median:.2f}" if chart["kind"] == "ratios" else f"{median:,.0f}"
    # The value stands at the end of the bar, beyond its spread; to the left of 1.00 it stands at the left.
    to_left = x(median) < start
    place, anchor = (x(low) - 6, "end") if to_left else (x(high) + 6, "start")
    return [
        f'<rect class="{colour}" x="{left:.1f}" y="{y}" width="{max(right - left, 1):.1f}" height="{BAR - 1}" rx="1.5">'
        f"<title>{html.escape(name)}: {shown}</title></rect>",
        f'<line class="spread" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>',
        text(place, y + BAR - 2, shown, "value strong" if ours else "value", anchor),
    ]


def ratio_scale(values):
    low, high = math.log2(min(0.5, *values) / 1.35), math.log2(max(2, *values) * 1.35)
    step = (WIDTH - MARGIN - LABELS) / (high - low)
    powers = range(math.ceil(low), math.floor(high) + 1)
    ticks = [(2.0**power, f"{2**power}×" if power >= 0 else f"1/{2**-power}") for power in powers]
    return lambda value: LABELS + (math.log2(value) - low) * step, ticks


def amount_scale(values):
    high = max(values) * 1.12
    unit = 10 ** math.floor(math.log10(high))
    step = next(unit * part for part in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5) if high / (unit * part) <= 6)
    ticks = [(step * number, f"{step * number:,.0f}") for number in range(int(high / step) + 1)]
    return lambda value: LABELS + value / high * (WIDTH - MARGIN - LABELS), ticks


def legend(names, chart):
    shapes, x = [], MARGIN
    for number, name in enumerate(names if len(names) > 1 else []):
        shapes.append(f'<rect class="{COLOURS[number % len(COLOURS)]}" x="{x}" y="72" width="11" height="11" rx="1.5"/>')
        shapes.append(text(x + 17, 82, name))
        x += 17 + 8 * len(name) + 18
    if chart["kind"] == "ratios":
        shapes.append(f'<line class="base" x1="{x + 5}" x2="{x + 5}" y1="71" y2="84"/>')
        shapes.append(text(x + 13, 82, f"{chart['base']} = 1.00"))
    return shapes


def text(x, y, content, style="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{html.escape(content)}</text>'
