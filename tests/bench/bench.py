"""The benches' main program: what was asked for is measured in rounds, and becomes one report.

A part is a module named like it, with `measure(options)`: it returns its section of the report in Markdown, or that and
what `plot.draw` makes a chart of (its docstring says what that is). It is imported when its turn comes.
"""

import argparse
import importlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import plot

PARTS = ["hit", "auth", "floor", "cold", "throughput", "page", "auto", "overload", "scale", "memory", "profile"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=pathlib.Path, required=True, help="sources, peers and the report")
    parser.add_argument("--sendimage", type=pathlib.Path)
    parser.add_argument("--sharp", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rows", default="", help="only rows whose title holds this regular expression")
    parser.add_argument("--lock", type=pathlib.Path, help="held while something is timed")
    parser.add_argument("--peers", action="store_true", help="slow peers too")
    parser.add_argument("--publish", type=pathlib.Path, help="a directory that gets a copy of the report and its charts")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.rounds < 5:
        print("fewer than five rounds: the spread says little", file=sys.stderr)

    report = options.directory / "report.md"
    known = list(versions(options))
    report.write_text(heading(options, known))
    written = [report]
    for part in options.parts:
        section, chart = importlib.import_module(part).measure(options), None
        if isinstance(section, tuple):
            section, chart = section
        elif part == "hit":
            chart = plot.of_table(section, "requests/s", "A stored rendition, all servers of a peer on one core")
        # Written at once: a run that is cut short keeps what it has.
        with report.open("a", encoding="utf-8") as file:
            file.write(f"\n{section.strip()}\n")
        if chart:
            (options.directory / f"{part}.json").write_text(json.dumps(chart))
            footer = f"{time.strftime('%Y-%m-%d')} · {' · '.join(known)}"
            written.append(options.directory / f"{part}.svg")
            written[-1].write_text(plot.draw(chart, footer), encoding="utf-8")
    print(report.read_text())
    if options.publish:
        options.publish.mkdir(parents=True, exist_ok=True)
        for file in written:
            shutil.copy(file, options.publish)


def heading(options, known):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return (
        "# Measured side by side\n\n"
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores ({model}), Linux {platform.release()}; "
        f"{options.rounds} interleaved rounds; a ratio is taken within each round, and given as median (lowest to highest).\n"
        f"Versions: {', '.join(known)}. Load average before: {os.getloadavg()[0]:.1f}.\n"
    )


def versions(options):
    first = lambda command: (  # noqa: E731
        lambda done: (done.stdout or done.stderr).strip().splitlines()[0]
    )(subprocess.run(command, capture_output=True, text=True, check=False))
    if options.sendimage:
        here = pathlib.Path(__file__).parent
        commit = first(["git", "-C", here, "describe", "--always", "--dirty"])
        yield f"{first([options.sendimage, '--version'])} (commit {commit})"
    if options.sharp:
        script = f"console.log('sharp ' + require({str(options.sharp)!r}).versions.sharp)"
        yield first(["node", "-e", script])
        yield "node " + first(["node", "--version"])
    if "cold" in options.parts:
        script = "import PIL, pyvips, willow; print('libvips', *[pyvips.version(n) for n in range(3)], PIL.__version__, willow.__version__)"
        name, major, minor, patch, pillow, willow = first([sys.executable, "-c", script]).split()
        yield from (f"{name} {major}.{minor}.{patch}", f"Willow {willow} on Pillow {pillow}")
    if set(options.parts) - {"cold", "throughput"}:
        yield first(["nginx", "-v"]).replace("nginx version: ", "")
        yield first(["wrk", "-v"]).split(" [")[0]
    if options.peers and "hit" in options.parts:
        yield from importlib.import_module("django_peers").versions(options)


if __name__ == "__main__":
    main()
