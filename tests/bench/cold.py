"""One rendition of a photograph, decoded, resized and encoded in one process on one core, beside sharp, libvips (its
thumbnail) and Willow on Pillow (as Wagtail calls it).

All read the file and keep nothing of it; all are timed from inside, repeatedly, after a warm-up: start-up is in none.
How near the outputs are to a reference is measured once, outside the rounds.
"""

import dataclasses
import json
import pathlib
import re
import statistics
import sys
import tempfile

import fidelity
import sources
from rounds import Others, alone, pinned, progress, ratios, run_watched, spread, table

TURN_MS = 700
HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Work:
    source: str
    width: int
    height: int | None
    format: str
    quality: int | None

    @property
    def title(self):
        megapixels, kind = {
            "12mp.jpg": ("12 MP", "JPEG"),
            "progressive.jpg": ("12 MP", "progressive JPEG"),
            "24mp.jpg": ("24 MP", "JPEG"),
            "12mp.png": ("12 MP", "PNG"),
            "2mp.webp": ("2 MP", "WebP"),
            "2mp.avif": ("2 MP", "AVIF"),
        }[self.source]
        size = f"fill {self.width}x{self.height}" if self.height else f"width {self.width}"
        name = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "avif": "AVIF"}[self.format]
        return f"{megapixels} {kind} → {size} {name}" + (f" q{self.quality}" if self.quality else "")

    @property
    def spec(self):
        size = f"fill-{self.width}x{self.height}" if self.height else f"width-{self.width}"
        return f"{size}|format-{self.format}" + (f"|{self.format}quality-{self.quality}" if self.quality else "")

    @property
    def chain(self):
        size = f"{self.width}, {self.height}, {{fit: 'cover'}}" if self.height else f"{self.width}"
        settings = {"quality": self.quality} if self.quality else {}
        if self.format == "avif":
            settings["effort"] = 4
        return f"resize({size}).{self.format}({json.dumps(settings)})"

    def at(self, quality):
        return dataclasses.replace(self, quality=quality) if self.quality else self


ROWS = [
    Work("12mp.jpg", 400, 300, "jpeg", 85),
    Work("12mp.jpg", 1600, None, "jpeg", 85),
    Work("progressive.jpg", 400, 300, "jpeg", 85),
    Work("24mp.jpg", 400, 300, "jpeg", 85),
    Work("24mp.jpg", 1600, None, "jpeg", 85),
    Work("12mp.jpg", 800, None, "webp", 80),
    Work("12mp.jpg", 800, None, "avif", 50),
    Work("12mp.png", 800, None, "png", None),
    Work("12mp.png", 400, 300, "webp", 80),
    Work("2mp.webp", 800, None, "webp", 80),
    Work("2mp.webp", 800, None, "jpeg", 85),
    Work("2mp.avif", 800, None, "jpeg", 85),
]


def measure(options):
    if not options.sendimage or not options.sharp:
        sys.exit("the cold path is measured with sendimage and sharp, or not at all")
    folder, origin = sources.prepare(options)
    works = [work for work in ROWS if re.search(options.rows, work.title)]
    rows, bars, others = [], [], Others()
    with tempfile.TemporaryDirectory(prefix="sendimage-bench-") as directory:
        for work in works:
            with alone(options), others:
                row, bar = one_row(options, Peers(options, folder, pathlib.Path(directory)), work)
            rows.append(row)
            bars.append(bar)
    head = ["one core", "source MB", "sharp ms", "sendimage ms", "ratio", "libvips", "Willow"]
    head += ["peak MiB: sendimage / sharp", "output KB", "SSIM of the output", "PSNR of the resize, dB"]
    text = (
        "## A rendition that is not there yet (sharp = 1.00, higher is faster)\n\n"
        + table(head, rows)
        + f"\nSource: {origin}. Pairs are sendimage / sharp. SSIM and PSNR are of luma, against a full decode and Pillow's "
        "Lanczos; PSNR at quality 100 (WebP's and AVIF's own loss is in it). Willow saves as Wagtail does. AVIF: sendimage at "
        "the lowest quality whose SSIM is not below that of sharp at effort 4; libvips and Willow at sharp's. "
        f"{others}\n"
    )
    chart = {
        "kind": "ratios",
        "title": "A rendition that is not there yet, on one core",
        "subtitle": "times faster than sharp (median, lowest to highest)",
        "base": "sharp",
        "rows": bars,
    }
    return text, chart


def one_row(options, peers, work):
    progress(f"cold, {work.title}: comparing")
    mine, first, best = peers.compare(work)
    # A turn is to last about as long for each.
    repeats = {name: max(2, min(60, round(TURN_MS / result["ms"]))) for name, result in first.items()}
    results = {name: [] for name in repeats}
    names = list(repeats)
    for number in range(options.rounds):
        progress(f"cold, {work.title}: round {number + 1} of {options.rounds}")
        # Who goes first changes from round to round.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(peers.run(name, mine if name == "sendimage" else work, repeats[name]))
    ms = {name: [result["ms"] for result in rounds] for name, rounds in results.items()}
    against = {name: ratios(ms["sharp"], ms[name]) for name in ["sendimage", "libvips", "Willow"]}
    pair = lambda show: f"{show('sendimage')} / {show('sharp')}"  # noqa: E731
    row = [
        work.title + (f" (sendimage: q{mine.quality})" if mine != work else ""),
        f"{(peers.folder / work.source).stat().st_size / 1e6:.2f}",
        f"{statistics.median(ms['sharp']):.1f}",
        f"{statistics.median(ms['sendimage']):.1f}",
        f"**{spread(against['sendimage'])}**",
        spread(against["libvips"]),
        spread(against["Willow"]),
        pair(lambda name: f"{max(result['peak'] for result in results[name]) / 2**20:.0f}"),
        pair(lambda name: f"{first[name]['bytes'] / 1000:.0f}"),
        pair(lambda name: f"{first[name]['likeness']:.4f}"),
        pair(lambda name: f"{best[name]['likeness']:.1f}"),
    ]
    bars = [[name, statistics.median(values), min(values), max(values)] for name, values in against.items()]
    return row, {"label": work.title, "bars": bars}


def median_ms(result):
    """`sendimage render` gives the median itself; its total has the worker's messages in it, as the service has them."""
    return result["ms"]["total"] if isinstance(result["ms"], dict) else statistics.median(result["ms"])


class Peers:
    def __init__(self, options, folder, directory):
        self.options, self.folder, self.directory = options, folder, directory

    def command(self, name, work, repeat, output=None, loops=1):
        source = str(self.folder / work.source)
        if name == "sendimage":
            command = [self.options.sendimage, "render", source, work.spec, output or self.directory / "out"]
            return list(map(str, [*command, "--repeat", repeat, "--json"]))
        asked = {**dataclasses.asdict(work), "source": source, "repeat": repeat, "output": output and str(output)}
        if name == "sharp":
            asked = {**asked, "chain": work.chain, "loops": loops}
            return ["node", str(HERE / "sharp.js"), str(self.options.sharp), json.dumps(asked)]
        return [sys.executable, str(HERE / "peer.py"), {"libvips": "vips", "Willow": "willow"}[name], json.dumps(asked)]

    def run(self, name, work, repeat, output=None):
        """Milliseconds of a render (the median of the repeats), peak bytes of the processes, bytes of the output."""
        text, peak = run_watched(pinned(0, self.command(name, work, repeat, output)))
        result = json.loads(text)
        size = result["output"]["bytes"] if name == "sendimage" else result["bytes"]
        return {"ms": median_ms(result), "peak": peak, "bytes": size, "reduction": result.get("decode_reduction")}

    def compare(self, work):
        """An output of each with its SSIM, and ours and sharp's at the highest quality with their PSNR.

        The work is given back too, with the quality that ours needs where the scales of quality differ.
        """
        output = self.directory / "compared"
        references = {}

        def made(name, work, judge):
            result = self.run(name, work, 2, output)
            picture = fidelity.opened(output)
            # Sides are rounded differently: each output is held against a reference of its own size.
            size = picture.shape[::-1]
            if size not in references:
                references[size] = fidelity.reference(self.folder / work.source, size, work.height)
            return {**result, "likeness": judge(references[size], picture)}

        first = {name: made(name, work, fidelity.ssim) for name in ["sharp", "libvips", "Willow"]}
        mine = work
        if work.format == "avif":
            low, high = 30, 95
            while low < high:
                middle = (low + high) // 2
                if made("sendimage", work.at(middle), fidelity.ssim)["likeness"] >= first["sharp"]["likeness"]:
                    high = middle
                else:
                    low = middle + 1
            mine = work.at(low)
        first["sendimage"] = made("sendimage", mine, fidelity.ssim)
        best = {name: made(name, work.at(100), fidelity.psnr) for name in ["sendimage", "sharp"]}
        reductions = [each["sendimage"]["reduction"] for each in (first, best)]
        if reductions[0] != reductions[1]:
            sys.exit(f"{work.title}: at quality 100 it is decoded at 1/{reductions[1]}, not at 1/{reductions[0]}")
        return mine, first, best
