"""format-auto: what the first view of an image waits for, when its AVIF is there, and what that costs the others.

The first view is served as WebP while the AVIF is made behind it. It is timed beside a plain first view as WebP, each of a
photo that is new; the next pair begins when the AVIF is there. Then small renditions, one at a time, alone and while a row
of AVIFs is being made.
"""

import statistics
import time

from overload import percentile
from rounds import alone, progress, ratios, spread, table
from service import Meanwhile, Service, photo, scratch, together, verdict

AUTO, WEBP, SMALL = "width-800|format-auto", "width-800|format-webp", "fill-100x100"
ACCEPT = {"Accept": "image/avif,image/webp"}
BEHIND = 40
POLL_SECONDS = 0.02


def measure(options):
    with scratch() as (directory, running):
        source = photo(options, directory)
        # Room for a row of AVIFs to wait.
        config = f"[render]\nqueue_depth = {BEHIND * 4}\ndeadline_seconds = 60\n"
        service = Service(directory / "sendimage", options.sendimage, config).start(running)
        auto, webp, until = [], [], []

        def first_auto():
            path = service.sign(service.another(source), AUTO)
            kind, ms = first(service, path)
            if kind == "image/avif":
                until.append(ms)
            else:
                until.append(ms + wait_for_avif(service, path))
            auto.append(ms)

        def first_webp():
            webp.append(first(service, service.sign(service.another(source), WEBP))[1])

        others = Meanwhile(service.process, service.nginx)
        with alone(options):
            first_auto(), first_webp()
        auto.clear(), webp.clear(), until.clear()
        for number in range(options.rounds):
            progress(f"auto: round {number + 1} of {options.rounds}")
            with alone(options), others:
                for turn in [first_auto, first_webp] if number % 2 == 0 else [first_webp, first_auto]:
                    turn()
                    service.drained()
        quiet, beside = [], []
        for number in range(min(options.rounds, 3)):
            progress(f"auto: small ones, round {number + 1}")
            paths = [service.sign(service.another(source), AUTO) for _ in range(BEHIND)]
            with alone(options), others:
                quiet.append(small(service, source, lambda made: made < BEHIND))
                # All at once: what is behind only builds up while the workers are kept from it.
                together([lambda path=path: first(service, path) for path in paths])
                beside.append(small(service, source, lambda _: service.metrics()["sendimage_render_queue_depth"] > 2))
                service.drained()
        return report(source, auto, webp, until, quiet, beside) + f"\n{others}\n"


def first(service, path):
    """The media type, and the milliseconds that it took."""
    start = time.perf_counter()
    kind, _ = service.rendition(path, ACCEPT)
    return kind, (time.perf_counter() - start) * 1000


def wait_for_avif(service, path):
    start = time.perf_counter()
    while time.perf_counter() - start < 60:
        time.sleep(POLL_SECONDS)
        if service.rendition(path, ACCEPT)[0] == "image/avif":
            return (time.perf_counter() - start) * 1000
    raise SystemExit(f"{path}: no AVIF after a minute\n{service.log()}")


def small(service, source, more):
    """Small renditions of new images, one after another, as long as there is reason to."""
    took = []
    while more(len(took)):
        took.append(first(service, service.sign(service.another(source), SMALL))[1])
    return took


def report(source, auto, webp, until, quiet, beside):
    text = f"\n## format-auto (width-800 of a JPEG of {source.stat().st_size / 1e6:.1f} MB and 12 megapixels, new each time)\n\n"
    rows = [
        ["first view, format-auto", spread(auto, 0), spread(ratios(auto, webp))],
        ["first view, format-webp", spread(webp, 0), "1.00"],
        ["until AVIF is served, from the first request", spread(until, 0), ""],
    ]
    text += table(["", "ms", "of the plain one's"], rows) + "\n"
    rows = [
        [title, sum(map(len, lists)), *(spread([percentile(took, share) for took in lists], 0) for share in (0.5, 0.9))]
        for title, lists in [("alone", quiet), ("AVIFs being made behind", beside)]
    ]
    text += table([f"{SMALL}, one at a time", "made", "p50 ms", "p90 ms"], rows) + "\n"
    text += verdict("first view with format-auto, of WebP's", statistics.median(ratios(auto, webp)), most=1.1)
    return text
