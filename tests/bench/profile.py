"""Where a hit's and a cold render's time goes, by perf: what any program in this place would spend, and what is ours.

The gate is sampled during hits through nginx, and so is the floor's upstream: by the system call that a sample lies in, or
the library that its function is of. Cold rows (those of `--rows`, else the ones with the least lead) are sampled as the cold
part runs them. A share of samples is a share of the processor's time.
"""

import collections
import pathlib
import re
import statistics
import subprocess
import sys
import threading

import cold
import hit
import sources
from rounds import alone, family, pinned, progress, table
from service import Service, scratch

# Rows whose ratio to sharp is the least.
LEAST = r"JPEG → fill 400x300 JPEG|12 MP JPEG → width 800 WebP"
# Samples a second: a prime, so that nothing periodic keeps step with it.
FREQUENCY = 1997

# The first that fits counts. Mangled and demangled names of Rust both have the crate's name in them.
OF_HITS = [
    ("hyper, http, httparse, bytes", r"\b(?:\d*)(hyper|hyper_util|http|httparse|bytes|futures_\w+)(?=\W|\d|[A-Z])"),
    ("tokio, mio", r"\b(?:\d*)(tokio|mio)(?=\W|\d|[A-Z])"),
    ("HMAC", r"sha2|hmac|digest|sha256"),
    ("allocation, copying, comparing", r"malloc|free|calloc|realloc|memcpy|memmove|memset|memcmp|_int_|tcache|__rust"),
    ("sendimage", r"sendimage"),
    ("nginx", r"^ngx_"),
]
# Less than this share of everything is of the rest.
LEAST_SHARE = 0.005
OF_RENDERS = [
    ("JPEG: entropy decoding", r"codec.*jpeg.*(means|progressive|pieces|reduced)|decode_mcu|fill_bit_buffer|decompress_(onepass|data)|consume_(data|markers)|huff_decode"),
    ("JPEG: inverse DCT", r"idct"),
    ("JPEG: upsampling, colours", r"ycc|upsample|h2v[12]_|sep_upsample|rgb_ycc|color_convert"),
    ("JPEG: encoding", r"encode_mcu|huff_encode|fdct|quantize|convsamp|forward_DCT|compress_|htest|jchuff|encode_one"),
    ("WebP: encoding", r"VP8|WebP|Disto|Quantize|Transform|Residual|SSE\d|Intra\d|PickBest|Histogram|Flush|PutBit|Reconstruct"),
    ("resampling and the like", r"sendimage_pixels|resize|resample|fast_image_resize"),
]


def measure(options):
    if not options.sendimage:
        sys.exit("there is nothing to profile without sendimage")
    text = "## Where the time goes (perf, " + f"{FREQUENCY} samples a second of processor time)\n\n" + of_hits(options)
    if options.sharp:
        text += "\n" + of_renders(options)
    return text


def of_hits(options):
    with scratch() as (directory, running):
        check = Service(directory / "sendimage", options.sendimage, core=0)
        names = hit.photos(check)
        check.start(running)
        progress(f"profile: rendering {hit.FILES} images")
        peers = {hit.CHECK: hit.peer(check, [check.sign(name, hit.SPEC) for name in names])}
        files = hit.stored(check.store)
        assume = Service(directory / "assume", options.sendimage, '[store]\nexistence = "assume"\n', 0, check.media, check.store)
        assume.start(running)
        peers[hit.ASSUME] = hit.peer(assume, [assume.sign(name, hit.SPEC) for name in names])
        peers[hit.FLOOR] = hit.start_floor(running, directory, check.store, files)
        microseconds = {}
        for name, peer in peers.items():
            behind = next(process for process in peer.processes if process != "nginx")
            progress(f"profile: {name}")
            with alone(options):
                hit.load(peer, 1)
                # Timed without perf, which costs something itself.
                spent = [hit.load(peer, options.seconds)["cpu_us"][behind] for _ in range(options.rounds)]
                pids = [str(pid) for pid in family(peer.processes[behind].pid)]
                shares = sampled(directory, ["-p", ",".join(pids)], lambda: hit.load(peer, options.seconds + 2), options.seconds, OF_HITS)
            microseconds[name] = {what: share * statistics.median(spent) for what, share in shares.items()}
    whats = sorted({what for each in microseconds.values() for what in each}, key=lambda what: -microseconds[hit.CHECK].get(what, 0))
    rows = [[what, *(f"{each.get(what, 0):.1f}" for each in microseconds.values())] for what in whats]
    rows.append(["**all**", *(f"**{sum(each.values()):.1f}**" for each in microseconds.values())])
    return table(["CPU us of a hit behind nginx", *microseconds], rows)


def of_renders(options):
    folder, _ = sources.prepare(options)
    works = [work for work in cold.ROWS if re.search(options.rows or LEAST, work.title)]
    columns = {}
    with scratch() as (directory, _):
        for work in works:
            progress(f"profile: {work.title}")
            peers = cold.Peers(options, folder, directory)
            with alone(options):
                one = peers.run("sendimage", work, 5)["ms"]
                command = pinned(0, peers.command("sendimage", work, max(20, round(3000 / one))))
                shares = sampled(directory, ["--", *command], None, None, OF_RENDERS)
            columns[f"{work.title} ({one:.0f} ms)"] = shares
    whats = sorted({what for each in columns.values() for what in each}, key=lambda what: -max(c.get(what, 0) for c in columns.values()))
    rows = [[what, *(f"{100 * each.get(what, 0):.0f} %" for each in columns.values())] for what in whats]
    return table(["of a render's time", *columns], rows)


def sampled(directory, target, load, seconds, kinds):
    """The shares of time by kind, of processes or of a command, meanwhile under load or by itself."""
    data = pathlib.Path(directory) / "perf.data"
    command = ["perf", "record", "-q", "-F", str(FREQUENCY), "-e", "cpu-clock", "-g", "-o", data, *target]
    thread = threading.Thread(target=load) if load else None
    if thread:
        thread.start()
        command += ["--", "sleep", str(seconds)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if thread:
        thread.join()
    if done.returncode:
        sys.exit(f"perf record failed:\n{done.stderr}")
    script = subprocess.run(["perf", "script", "-i", data, "-F", "comm,ip,sym"], capture_output=True, text=True, check=True).stdout
    found = collections.Counter()
    for sample in script.split("\n\n"):
        head, *frames = sample.strip().splitlines() or [""]
        if head and not head.startswith("sleep"):
            found[kind([frame.strip().partition(" ")[2] for frame in frames], kinds)] += 1
    total = sum(found.values())
    if total < 500:
        sys.exit(f"{total} samples say nothing")
    shares = collections.Counter()
    for what, count in found.items():
        shares[what if count >= LEAST_SHARE * total else "the rest"] += count / total
    return shares


def kind(frames, kinds):
    """What a sample is of: its frames, the innermost first."""
    for frame in frames:
        call = re.match(r"__(?:x64|arm64|se)_sys_(\w+)", frame)
        if call:
            return f"system call: {call[1].removeprefix('new').removesuffix('64')}"
    if any(re.search(r"do_syscall|entry_SYSCALL|el0_svc|syscall_", frame) for frame in frames):
        return "system calls: entry and exit"
    if any(re.search(r"asm_(sysvec|exc)|irq_exit|do_softirq", frame) for frame in frames):
        return "interrupts, page faults"
    for what, pattern in kinds:
        if frames and re.search(pattern, frames[0]):
            return what
    return "the rest"


if __name__ == "__main__":
    sys.exit("this is a part of bench.py")
