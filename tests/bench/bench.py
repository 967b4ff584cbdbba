"""The benches' main program: what was asked for is measured in rounds, and becomes one report."""

import argparse
import os
import pathlib
import platform
import subprocess
import sys
import time

import cold
import hit


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--sendimage", type=pathlib.Path)
    parser.add_argument("--sharp", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("parts", nargs="+", choices=["hit", "cold", "floor"])
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.rounds < 5:
        print("fewer than five rounds: the spread says little", file=sys.stderr)

    sections = [heading(options)]
    if "floor" in options.parts or "hit" in options.parts:
        sections.append(hit.measure(options, options.sendimage if "hit" in options.parts else None))
    if "cold" in options.parts:
        sections.append(cold.measure(options))
    report = "\n".join(sections)
    (options.directory / "report.md").write_text(report)
    print(report)


def heading(options):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    lines = [
        "# Measured side by side\n",
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores ({model}), Linux {platform.release()}; "
        f"{options.rounds} interleaved rounds; a ratio is taken within each round, and given as median (lowest to highest).",
        f"Versions: {', '.join(versions(options))}. Load average before: {os.getloadavg()[0]:.1f}.\n",
    ]
    return "\n".join(lines)


def versions(options):
    first = lambda command: (  # noqa: E731
        lambda done: (done.stdout or done.stderr).strip().splitlines()[0]
    )(subprocess.run(command, capture_output=True, text=True, check=False))
    yield first(["nginx", "-v"]).replace("nginx version: ", "")
    yield first(["wrk", "-v"]).split(" [")[0]
    if options.sendimage:
        yield first([options.sendimage, "--version"])
        commit = first(["git", "-C", pathlib.Path(__file__).parent, "describe", "--always", "--dirty"])
        yield f"commit {commit}"
    if options.sharp:
        script = f"console.log('sharp ' + require({str(options.sharp)!r}).versions.sharp)"
        yield first(["node", "-e", script])
        yield "node " + first(["node", "--version"])


if __name__ == "__main__":
    main()
