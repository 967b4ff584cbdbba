"""What it costs a hit to ask who may see it: the same files, with the signature alone, with tokens, and with the site's word.

As in `hit`, all of a peer's servers share one core and wrk has the other. A hundred visitors take turns, each with a token or
a session of their own; the site that decides is asked once for each, before anything is timed.
"""

import http.server
import statistics
import threading

from hit import SPEC, in_rounds, peer, photos
from rounds import alone, progress, ratios, spread, table
from service import Service, scratch, verdict

VISITORS = 100
OFF, JWT, FORWARD = "signature alone", 'mode = "jwt"', 'mode = "forward"'
SECRET = "a secret that is only this bench's, and long enough"


class Yes(http.server.BaseHTTPRequestHandler):
    """A site that lets everyone in."""

    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def measure(options):
    with scratch() as (directory, running):
        site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Yes)
        threading.Thread(target=site.serve_forever, daemon=True).start()
        running.callback(site.shutdown)
        configs = {
            OFF: "",
            JWT: f'[auth]\nmode = "jwt"\n[auth.jwt]\nkeys = [{{ kid = "bench", algorithm = "HS256", secret = "{SECRET}" }}]\n',
            FORWARD: '[auth]\nmode = "forward"\n[auth.forward]\nscope = "credentials"\ncache_seconds = 300\n'
            f'timeout_seconds = 5\nurl = "http://127.0.0.1:{site.server_port}/"\n',
        }
        first = Service(directory / "sendimage", options.sendimage, core=0)
        names = photos(first)
        peers = {}
        for number, (title, config) in enumerate(configs.items()):
            service = first if title == OFF else Service(
                directory / f"sendimage-{number}", options.sendimage, config, 0, first.media, first.store
            )
            service.start(running)
            headers = None
            if title != OFF:
                headers = service.home / "headers"
                headers.write_text("".join(f"{line}\n" for line in visitors(service, title)))
            progress(f"asking for {len(names)} images: {title}")
            with alone(options):
                peers[title] = peer(service, [service.sign(name, SPEC) for name in names], headers)
        results, others = in_rounds(options, peers)
        return report(results, options, others)


def visitors(service, title):
    """A header line for each."""
    for number in range(VISITORS):
        if title == JWT:
            token = service.run("token", "-c", service.config, "--sub", f"visitor-{number}", "--ttl", "5h").strip()
            yield f"Authorization: Bearer {token}"
        else:
            yield f"Cookie: sessionid={number:032}"


def report(results, options, others):
    series = lambda name: [round["per_second"] for round in results[name]]  # noqa: E731
    cpu = lambda name: [round["cpu_us"]["sendimage"] for round in results[name]]  # noqa: E731
    rows = [
        [
            name,
            f"{statistics.median(series(name)):,.0f}",
            spread(ratios(series(name), series(OFF))),
            f"{statistics.median(round['p99_us'] for round in results[name]) / 1000:.2f}",
            f"{statistics.median(cpu(name)):.1f}",
            spread(ratios(cpu(name), cpu(OFF))),
        ]
        for name in results
    ]
    text = f"## Who may see it ({VISITORS} visitors in turn, {options.seconds} s a turn, servers on one core)\n\n"
    head = ["", "requests/s", "of the signature alone", "p99 ms", "gate's CPU us a request", "of the signature alone"]
    text += table(head, rows) + f"\n{others}\n\n"
    share = statistics.median(ratios(series(JWT), series(OFF)))
    return text + verdict(f"{JWT}: requests/s, of the signature alone", share, least=0.9)
