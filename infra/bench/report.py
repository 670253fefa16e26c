"""Writes the figures of ./compaction into docs/PERFORMANCE.md, between its marks, and into a plot in docs/plots."""

import json
import os
import sys
from html import escape
from math import log10

DOCS = f"{os.path.dirname(os.path.abspath(__file__))}/../../docs"

WHO = [
    "lakehose",
    "lakehose, an eighth of the memory",
    "DuckDB",
    "DuckDB, memory_limit 512MB",
    "deltalake",
    "deltalake, sorted",
]
COMPARED = [
    ("rows", "**rows/s per core**"),
    ("bytes", "MB/s per core, of the fragments"),
    ("CPU", "ns CPU a row"),
    ("by the clock", "rows/s by the clock"),
    ("memory at most", "memory at most, MB"),
    ("memory at its start", "of it at the start of the process, MB"),
    ("files", "files"),
    ("size", "bytes a row"),
]
QUERIES = [
    "count of all rows",
    "all rows, grouped",
    "one date, one device",
    "last 5 of one device",
    "one id of one date",
]


def main(folder):
    compact, columns, queries = [read(f"{folder}/{name}.json") for name in ("compact", "columns", "queries")]
    times, fragments = times_of(queries["figures"])
    page = f"{DOCS}/PERFORMANCE.md"
    with open(page, encoding="utf-8") as file:
        text = file.read()
    text = replace(text, "compact", comparison(compact) + "\nWith four declared columns:\n\n" + comparison(columns))
    text = replace(text, "queries", query_table(queries, times, fragments))
    with open(page, "w", encoding="utf-8") as file:
        file.write(text)
    os.makedirs(f"{DOCS}/plots", exist_ok=True)
    with open(f"{DOCS}/plots/compaction.svg", "w", encoding="utf-8") as file:
        file.write(plot(times, fragments))


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def replace(text, name, tables):
    """Puts `tables` between the comments of that name."""
    begin, end = f"<!-- {name}: written by infra/bench/compaction -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        sys.exit(f"docs/PERFORMANCE.md has no `{begin}` with its end")
    before, rest = text.split(begin, 1)
    return before + begin + "\n\n" + tables + "\n" + end + rest.split(end, 1)[1]


def comparison(measured):
    figures = measured["figures"]
    who = [name for name in WHO if f"{name}: CPU" in figures]
    lines = [f"{measured['bench']}; {load(measured)}. {bare(figures)}", ""]
    lines += [row([""] + who), "|---" * (len(who) + 1) + "|"]
    for key, words in COMPARED:
        lines.append(row([words] + [number(figures[f"{name}: {key}"]["value"]) for name in who]))
    return "\n".join(lines + [f"\n{note}" for note in measured["notes"]]) + "\n"


def bare(figures):
    steps = {step: figures[f"bare: {step}"]["value"] for step in ("decode", "sort", "encode", "total")}
    ours = steps["total"] / figures["lakehose: CPU"]["value"]
    each = ", ".join(f"{step} {number(value)}" for step, value in steps.items() if step != "total")
    return f"Bare: {number(steps['total'])} ns a row ({each}), {ours:.2f} of lakehose's."


def load(measured):
    return f"{measured['cores']} cores, load {measured['load_before']} before and {measured['load_after']} after"


def times_of(figures):
    """Milliseconds by query and number of fragments, and all other figures by number of fragments."""
    value = {name: figure["value"] for name, figure in figures.items()}
    counts = sorted(int(name.split()[0]) for name in value if name.endswith("fragments: files before"))
    times = {query: {count: {} for count in counts} for query in QUERIES}
    for query, by_count in times.items():
        for count, of in by_count.items():
            of |= {when: value[f"{count} fragments, {query}: {when}"] for when in ("before", "after")}
    others = ("files after", "compaction", "memory at most")
    return times, {count: {name: value[f"{count} fragments: {name}"] for name in others} for count in counts}


def query_table(measured, times, fragments):
    lines = [f"{measured['bench']}; {load(measured)}; milliseconds:", ""]
    heads = [head for count in fragments for head in (f"{count:,} fragments", f"{files(fragments[count])}")]
    lines += [row([""] + heads), "|---" * (len(heads) + 1) + "|"]
    for query, by_count in times.items():
        pairs = [by_count[count] for count in fragments]
        lines.append(row([query] + [number(of[when]) for of in pairs for when in ("before", "after")]))
    compacted = [
        f"{count:,} fragments took {number(of['compaction'])} s of CPU and {number(of['memory at most'])} MB at most"
        for count, of in fragments.items()
    ]
    return "\n".join(lines) + f"\n\nTo compact {', '.join(compacted)}.\n"


def files(of):
    return f"compacted to {number(of['files after'])}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def number(value):
    if value < 1:
        return f"{value:.2f}"
    return f"{value:.1f}".removesuffix(".0") if value < 100 else f"{value:,.0f}"


WIDTH, LEFT, RIGHT = 760, 170, 70
BAR, GAP, HEAD = 15, 14, 46
BEFORE, AFTER, INK = "#c2703d", "#2f6f8f", "#777"


def plot(times, fragments):
    """Bars on a logarithmic scale: colours and letters that can be read on light and on dark pages."""
    most = max(time for by_count in times.values() for of in by_count.values() for time in of.values())
    ticks = [tick for tick in (1, 10, 100, 1_000, 10_000, 100_000) if tick < most * 10]
    group = 2 * BAR + GAP
    height = sum(HEAD + len(times) * group + 30 for _ in fragments)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        "<title>DuckDB's queries before and after compaction</title>",
    ]
    top = 0
    for count, of in fragments.items():
        lines += [
            text(LEFT, top + 18, f"{count:,} fragments", "start", BEFORE, bold=True),
            text(LEFT + 140, top + 18, files(of) + " files", "start", AFTER, bold=True),
            text(WIDTH - RIGHT, top + 18, "milliseconds, logarithmic", "end", INK),
        ]
        bottom = top + HEAD + len(times) * group - GAP
        for tick in ticks:
            x = position(tick, ticks[-1])
            lines.append(f'<path d="M{x:.1f} {top + HEAD - 8}V{bottom + 4}" stroke="{INK}" stroke-opacity="0.35"/>')
            lines.append(text(x, bottom + 18, f"{tick:,}", "middle", INK))
        for index, (query, by_count) in enumerate(times.items()):
            y = top + HEAD + index * group
            lines.append(text(LEFT - 8, y + BAR + 4, query, "end", INK))
            for when, colour in (("before", BEFORE), ("after", AFTER)):
                time = by_count[count][when]
                end = position(time, ticks[-1])
                lines.append(f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" fill="{colour}"/>')
                lines.append(text(end + 5, y + 12, number(time), "start", INK))
                y += BAR
        top = bottom + GAP + 30
    return "\n".join(lines + ["</svg>", ""])


def position(milliseconds, most):
    """Where a bar ends, in pixels; bars begin at 1 ms."""
    return LEFT + log10(max(milliseconds, 1)) / log10(most) * (WIDTH - LEFT - RIGHT)


def text(x, y, words, anchor, colour, bold=False):
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'


if __name__ == "__main__":
    main(sys.argv[1])
