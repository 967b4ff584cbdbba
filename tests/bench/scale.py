"""A store that is full: whether the service starts as fast, answers hits as fast and stays as small as on an empty one.

The full store holds many files under names such as sendimage gives, four for each source image and something in the place of
its record, each in a directory of its own. All are links to a few files of one byte, so that ten million fit any disk; hits ask for a
thousand real ones among them. SENDIMAGE_BENCH_SCALE says how many (200,000); what would take more than 60 % of the free inodes or of the
free space is cut down to that.
"""

import os
import shutil
import statistics
import sys
import time

import hit
from rounds import alone, progress, ratios, spread, table
from service import Service, pss, scratch, stop, verdict

RENDITIONS = int(os.environ.get("SENDIMAGE_BENCH_SCALE", "200000"))
OF_A_SOURCE = 4
SHARE = 0.6
# The directory of each source.
INODES, BLOCKS = 1 / OF_A_SOURCE, 4096 / OF_A_SOURCE
# Of one file; ext4 allows 65,000.
LINKS = 60_000
STARTS = 5
RECORD = ".source.json"


def measure(options):
    with scratch() as (directory, running):
        count, store = filled(options.directory)
        known = sources(store)
        running.callback(lambda: [shutil.rmtree(each) for each in sources(store) - known])
        empty = Service(directory / "empty", options.sendimage, core=0)
        full = Service(directory / "full", options.sendimage, core=0, store=store)
        starts, memory, peers = {}, {}, {}
        for title, service in [("empty", empty), ("full", full)]:
            names = hit.photos(service)
            paths = [service.sign(name, hit.SPEC) for name in names]
            service.start(running)
            progress(f"scale: rendering {len(paths)} images into the {title} store")
            with alone(options):
                hit.peer(service, paths)
                starts[title] = [start(service, running, paths[0]) for _ in range(min(options.rounds, STARTS))]
            time.sleep(5)
            memory[title] = [pss(service.process.pid)]
            peers[title] = hit.peer(service, paths)
        results, others = hit.in_rounds(options, peers)
        for title, service in [("empty", empty), ("full", full)]:
            memory[title].append(pss(service.process.pid))
        return report(count, starts, memory, results) + f"\n{others}\n"


def filled(directory):
    """How many renditions the full store has, and where it is. It is kept: to make one takes minutes, to remove it more."""
    room = os.statvfs(directory)
    most = int(SHARE * min(room.f_favail / INODES, room.f_bavail * room.f_frsize / BLOCKS))
    kept = directory / f"store-of-{RENDITIONS}-links"
    if kept.exists():
        return RENDITIONS, kept
    count = min(RENDITIONS, most)
    if count < RENDITIONS:
        progress(f"scale: {count:,} files, for more is not free here")
    store, unfinished = directory / f"store-of-{count}-links", directory / "store-unfinished"
    if store.exists():
        return count, store
    if unfinished.exists():
        shutil.rmtree(unfinished)
    for middle in range(256):
        (unfinished / f"r1/{middle:02x}").mkdir(parents=True)
    byte = directory / "byte"
    links = LINKS
    for number in range(count // OF_A_SOURCE):
        if number % 50_000 == 0:
            progress(f"scale: {number * OF_A_SOURCE:,} of {count:,} files")
        name = os.urandom(16).hex()
        source = f"{unfinished}/r1/{name[:2]}/{name}"
        os.mkdir(source)
        if links + OF_A_SOURCE + 1 > LINKS:
            byte.unlink(missing_ok=True)
            byte.write_bytes(b"x")
            links = 1
        for file in [RECORD, *(f"{os.urandom(6).hex()}-{os.urandom(16).hex()}.jpg" for _ in range(OF_A_SOURCE))]:
            os.link(byte, f"{source}/{file}")
            links += 1
    byte.unlink(missing_ok=True)
    unfinished.rename(store)
    return count, store


def sources(store):
    return {entry.path for middle in os.scandir(store / "r1") if middle.name[0] != "." for entry in os.scandir(middle)}


def start(service, running, path):
    """Seconds from spawning sendimage to ready, and to the first hit. nginx is there all the time."""
    stop(service.process)
    began = time.perf_counter()
    service.start_gate(running)
    while not service.ready():
        if service.process.poll() is not None or time.perf_counter() - began > 120:
            sys.exit(f"not ready\n{service.log()}")
        time.sleep(0.002)
    ready = time.perf_counter() - began
    while service.fetch(path)[0] != 200:
        time.sleep(0.002)
    return ready, time.perf_counter() - began


def report(count, starts, memory, results):
    rows = []
    for title in ["empty", "full"]:
        ready, first = zip(*starts[title])
        per_second, base = ([round["per_second"] for round in results[each]] for each in (title, "empty"))
        quiet, after = (f"{size / 2**20:.1f}" for size in memory[title])
        rate = [f"{statistics.median(per_second):,.0f}", spread(ratios(per_second, base))]
        rows.append([title, spread(ready), spread(first), *rate, quiet, after])
    text = (
        f"\n## A full store ({count:,} files, links to some of one byte, {OF_A_SOURCE} and a record in each of "
        f"{count // OF_A_SOURCE:,} directories, and the thousand renditions asked for; beside a store with these alone)\n\n"
    )
    head = ["", "s until ready", "s until the first hit", "hits/s", "of the empty store's"]
    text += table([*head, "gate MiB 5 s after the start", "gate MiB after the hits"], rows) + "\n"
    text += verdict("first hit after the start", statistics.median(first for _, first in starts["full"]), most=2, unit=" s")
    rate = ratios(*([round["per_second"] for round in results[title]] for title in ["full", "empty"]))
    return text + verdict("hits a second, of those with the empty store", statistics.median(rate), least=0.95)
