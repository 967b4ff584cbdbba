"""One thumbnail of a 12-megapixel photograph, decoded, resized and encoded in one process on one core, beside sharp.

Both read the file, neither its renditions; both are timed from inside, repeatedly, after a warm-up: `sendimage render
IN SPEC OUT --repeat N --json`, and a loop around sharp's toBuffer. Start-up is in neither.
"""

import json
import pathlib
import subprocess
import statistics
import sys
import tempfile

from rounds import pinned, progress, ratios, run_watched, spread, table

REPEAT = 20
WORK = [
    ("fill 400x300, JPEG q85", "fill-400x300|jpegquality-85", "resize(400, 300, {fit: 'cover'}).jpeg({quality: 85})"),
    ("width 1600, JPEG q85", "width-1600|jpegquality-85", "resize(1600).jpeg({quality: 85})"),
    ("width 800, WebP q80", "width-800|format-webp|webpquality-80", "resize(800).webp({quality: 80})"),
]
SHARP = pathlib.Path(__file__).with_name("sharp.js")


def measure(options):
    if not options.sendimage or not options.sharp:
        sys.exit("the cold path is measured with sendimage and sharp, or not at all")
    with tempfile.TemporaryDirectory(prefix="sendimage-bench-") as directory:
        directory = pathlib.Path(directory)
        source = directory / "source.jpg"
        subprocess.run([options.sendimage, "sample-photo", source, "--size", "4000x3000"], check=True)
        rows = []
        for title, spec, chain in WORK:
            ours, theirs = [], []
            for number in range(options.rounds):
                progress(f"cold, {title}: round {number + 1} of {options.rounds}")
                turns = [
                    lambda: ours.append(render(options, source, spec, directory / "out")),
                    lambda: theirs.append(sharp(options, source, chain)),
                ]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    turn()
            ms = lambda side: [result["ms"] for result in side]  # noqa: E731
            peak = lambda side: f"{max(result['peak'] for result in side) / 2**20:.0f}"  # noqa: E731
            rows.append([
                title,
                spread(ms(theirs), 1),
                spread(ms(ours), 1),
                spread(ratios(ms(theirs), ms(ours))),
                f"{peak(ours)} / {peak(theirs)}",
                f"{ours[-1]['bytes'] / 1000:.0f} / {theirs[-1]['bytes'] / 1000:.0f}",
            ])
        size = source.stat().st_size / 1e6
    text = f"\n## A rendition that is not there yet (4000x3000 JPEG of {size:.1f} MB, one core; sharp = 1.00, higher is faster)\n\n"
    head = ["", "sharp ms", "sendimage ms", "ratio", "peak MiB, ours / sharp", "output KB, ours / sharp"]
    return text + table(head, rows)


def render(options, source, spec, output):
    """Medians over the repeats, by stage; what they add up to is the render."""
    command = [options.sendimage, "render", source, spec, output, "--repeat", str(REPEAT), "--json"]
    text, peak = run_watched(pinned(0, list(map(str, command))))
    stages = json.loads(text)["ms"]
    total = stages if isinstance(stages, (int, float)) else stages.get("total") or sum(stages.values())
    return {"ms": total, "peak": peak, "bytes": output.stat().st_size}


def sharp(options, source, chain):
    command = ["node", str(SHARP), str(options.sharp), str(source), chain, str(REPEAT)]
    text, peak = run_watched(pinned(0, command))
    result = json.loads(text)
    return {"ms": statistics.median(result["ms"]), "peak": peak, "bytes": result["bytes"]}
