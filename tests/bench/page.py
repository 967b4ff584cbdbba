"""A page's worth: the six sizes of one photo that a page's srcset asks for at the same moment, none of them made before.

sendimage is asked through nginx, over six connections, by a photo that is new in every round; sharp makes the six from the
same file one after another, as a script that fills a cache does. Both have all cores.
"""

import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from rounds import alone, progress, ratios, spread, table
from service import Meanwhile, Service, photo, scratch, stop, together, verdict

QUALITY = 76
SIZES = [
    ("width-320", "resize(320)"),
    ("width-640", "resize(640)"),
    ("width-960", "resize(960)"),
    ("width-1280", "resize(1280)"),
    ("width-1600", "resize(1600)"),
    ("fill-400x300", "resize(400, 300, {fit: 'cover'})"),
]
SPECS = [f"{size}|jpegquality-{QUALITY}" for size, _ in SIZES]
# Until a service that nobody asks has given its workers' memory back.
REST_SECONDS = 11
RESTED = "sendimage, all six after a rest"
# sharp's own default is one thread for each core, but one where malloc is glibc's: the better of both counts.
WAYS = {
    "sharp, one after another, 1 thread": {"threads": 1, "at_once": False},
    "sharp, one after another, 2 threads": {"threads": 2, "at_once": False},
    "sharp, six promises at once, 1 thread each": {"threads": 1, "at_once": True},
}
SHARP = pathlib.Path(__file__).with_name("page.js")


def measure(options):
    if not options.sharp:
        sys.exit("a page's worth is measured beside sharp, or not at all")
    with scratch() as (directory, running):
        source = photo(options, directory)
        service = Service(directory / "sendimage", options.sendimage)
        service.check_signature(service.another(source), SPECS[0])
        service.start(running)
        sharp = start_sharp(running, options)
        turns = {
            "sendimage, asked for all six": lambda: page(service, service.another(source)),
            RESTED: lambda: after_a_rest(service, source),
            "sendimage, one after another": lambda: one_after_another(service, service.another(source)),
            **{title: lambda way=way: ask(sharp, source, way) for title, way in WAYS.items()},
        }
        results, names = {name: [] for name in turns}, list(turns)
        bound = least_possible(options, source)
        others = Meanwhile(service.process, service.nginx, sharp)
        with alone(options):
            for turn in turns.values():
                turn()  # warms caches, the workers' and sharp's
        for number in range(options.rounds):
            progress(f"page: round {number + 1} of {options.rounds}")
            with alone(options), others:
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    results[name].append(turns[name]())
        return report(results, source, bound) + f"\n{others}\n"


def page(service, name):
    """Milliseconds from the first request to the last byte of the last answer, and the bytes of each."""
    connections = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=60) for _ in SPECS]
    for connection in connections:
        connection.connect()

    def get(connection, path):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {body[:200]!r}")
        return len(body)

    paths = [service.sign(name, spec) for spec in SPECS]
    bytes_, seconds = together([lambda pair=pair: get(*pair) for pair in zip(connections, paths)])
    for connection in connections:
        connection.close()
    return {"ms": seconds * 1000, "bytes": bytes_}


def after_a_rest(service, source):
    name = service.another(source)
    time.sleep(REST_SECONDS)
    return page(service, name)


def one_after_another(service, name):
    results = [together([lambda path=service.sign(name, spec): len(service.rendition(path)[1])]) for spec in SPECS]
    return {"ms": sum(seconds for _, seconds in results) * 1000, "bytes": [size for [size], _ in results]}


def start_sharp(running, options):
    chains = json.dumps([f"{chain}.jpeg({{quality: {QUALITY}}})" for _, chain in SIZES])
    command = ["node", SHARP, options.sharp, chains]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    running.callback(stop, process)
    return process


def ask(sharp, source, way):
    sharp.stdin.write(json.dumps({"source": str(source), **way}) + "\n")
    sharp.stdin.flush()
    return json.loads(sharp.stdout.readline())


def least_possible(options, source):
    """Milliseconds of all six on all cores if nothing else were to be done and no core were ever idle: a decode in full, as
    `sendimage render` times it alone, a pass for all reductions, which cannot take less than the longest of them alone, and
    what comes after a decode for each.
    """
    decodes, rest = {}, 0
    with alone(options):
        for spec in SPECS:
            command = [options.sendimage, "render", source, spec, "/dev/null", "--repeat", "9", "--json"]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            decodes.setdefault(result["decode_reduction"], []).append(result["ms"]["decode"])
            rest += result["ms"]["resample"] + result["ms"]["encode"]
    alone_ms = {reduction: min(times) for reduction, times in decodes.items()}
    decode = alone_ms.pop(1, 0) + max(alone_ms.values(), default=0)
    return {"scales": len(decodes), "decode": decode, "ms": (decode + rest) / os.cpu_count()}


def report(results, source, bound):
    ms = {name: [result["ms"] for result in rounds] for name, rounds in results.items()}
    ours = ms["sendimage, asked for all six"]
    # What sharp is at its best in a round, one after another.
    counted = [min(pair) for pair in zip(*(ms[name] for name, way in WAYS.items() if not way["at_once"]))]
    rows = [
        [name, spread(ms[name], 0), spread(ratios(ms[name], ours)), f"{sum(results[name][-1]['bytes']) / 1000:.0f}"]
        for name in results
    ]
    text = (
        f"\n## A page's worth ({', '.join(size for size, _ in SIZES)} of one JPEG of {source.stat().st_size / 1e6:.1f} MB and "
        "12 megapixels, all new)\n\n"
    )
    text += table(["", "ms until the last byte", "times sendimage's", "KB, all six"], rows)
    found = statistics.median(ratios(counted, ours))
    rested = statistics.median(ratios(counted, ms[RESTED]))
    most = statistics.median(counted) / bound["ms"]
    text += (
        f"\nThe six need {bound['scales']} scales: a decode in full and a pass for the others, at least {bound['decode']:.0f} ms of one "
        f"core. With what follows them, and with {os.cpu_count()} cores that never wait, no web server and no disk, that is "
        f"{bound['ms']:.0f} ms: {most:.2f} times as fast as sharp one after another.\n"
    )
    text += (
        f"\nA worker keeps what memory it had for ten seconds; after {REST_SECONDS} without a request it begins with pages that the "
        f"system has to make anew, and the six come {rested:.2f} times as fast as sharp's, which keeps its own.\n"
    )
    return text + "\n" + verdict("a page's worth, times as fast as sharp one after another", found, least=3)
