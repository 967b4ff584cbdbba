"""Renditions a second when both cores render: two processes at once beside one, and beside sharp as two processes, and as
one process that renders two at a time.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import sources
from cold import Peers, Work, median_ms
from rounds import Others, alone, pinned, progress, ratios, spread, table

TURN_MS = 1500
ROWS = [
    Work("12mp.jpg", 400, 300, "jpeg", 85),
    Work("12mp.jpg", 1600, None, "jpeg", 85),
    Work("12mp.jpg", 800, None, "webp", 80),
    Work("12mp.png", 400, 300, "webp", 80),
]


def measure(options):
    if not options.sendimage or not options.sharp:
        sys.exit("throughput is measured with sendimage and sharp, or not at all")
    if len(os.sched_getaffinity(0)) < 2:
        return "## Both cores\n\nNot measured: there is one core only.\n"
    folder, _ = sources.prepare(options)
    rows, others = [], Others()
    with tempfile.TemporaryDirectory(prefix="sendimage-bench-") as directory:
        peers = Peers(options, folder, pathlib.Path(directory))
        for work in ROWS:
            if re.search(options.rows, work.title):
                with alone(options), others:
                    rows.append(one_row(options, peers, work))
    head = ["renditions a second", "sendimage, one core", "two", "scaling", "sharp, one core", "two", "scaling"]
    head += ["one process, two at a time", "sendimage of the faster sharp, on two cores"]
    return "## Both cores\n\n" + table(head, rows) + f"\n{others}\n"


def one_row(options, peers, work):
    repeats = {name: max(4, round(TURN_MS / peers.run(name, work, 4)["ms"])) for name in ["sendimage", "sharp"]}
    turns = {
        "ours 1": lambda: processes(peers, "sendimage", work, repeats, 1),
        "ours 2": lambda: processes(peers, "sendimage", work, repeats, 2),
        "sharp 1": lambda: processes(peers, "sharp", work, repeats, 1),
        "sharp 2": lambda: processes(peers, "sharp", work, repeats, 2),
        "sharp loops": lambda: loops(peers, work, repeats["sharp"]),
    }
    rates = {name: [] for name in turns}
    names = list(turns)
    for number in range(options.rounds):
        progress(f"throughput, {work.title}: round {number + 1} of {options.rounds}")
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rates[name].append(turns[name]())
    shown = {name: f"{statistics.median(values):.1f}" for name, values in rates.items()}
    faster = [max(pair) for pair in zip(rates["sharp 2"], rates["sharp loops"])]
    return [
        work.title,
        shown["ours 1"],
        shown["ours 2"],
        spread(ratios(rates["ours 2"], rates["ours 1"])),
        shown["sharp 1"],
        shown["sharp 2"],
        spread(ratios(rates["sharp 2"], rates["sharp 1"])),
        shown["sharp loops"],
        f"**{spread(ratios(rates['ours 2'], faster))}**",
    ]


def processes(peers, name, work, repeats, count):
    """Each on a core of its own; they start together and render equally often, so all but the ends overlap."""
    running = []
    for core in range(count):
        command = peers.command(name, work, repeats[name], peers.directory / f"out-{core}")
        running.append(subprocess.Popen(pinned(core, command), stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"{name} failed")
    return sum(1000 / median_ms(json.loads(output)) for output in outputs)


def loops(peers, work, repeat):
    output = subprocess.run(peers.command("sharp", work, repeat, loops=2), stdout=subprocess.PIPE, text=True, check=True).stdout
    result = json.loads(output)
    return 1000 * len(result["ms"]) / result["total"]
