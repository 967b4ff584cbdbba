"""Requests a second of a stored rendition: through nginx and sendimage, beside nginx alone (static, open_file_cache)
and beside the floor of X-Accel (nginx in front of an upstream that does nothing but name the file).

All of a peer's servers share one core, wrk has the other; one nginx worker each; the same files for all.
"""

import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys

from rounds import alone, cpu_seconds, pinned, progress, ratios, spread, table
from service import Meanwhile, Service, free_port, run, scratch, start_nginx, stop, verdict, wait_for, whole

FILES = 1000
CONNECTIONS = 32
SPEC = "width-480|jpegquality-80"
LUA = pathlib.Path(__file__).with_name("cycle.lua")
STATIC, FLOOR, FLOOR_AS_OURS = "nginx static, open_file_cache", "floor", "floor with our config and headers"
HYPER = "floor, its upstream of hyper"
CHECK, VERDICT = "sendimage", 'sendimage, mode = "auth_request"'
REMEMBER, ASSUME = 'sendimage, existence = "remember"', 'sendimage, existence = "assume"'
# What our answer to nginx says beside the file's name; the floor with our headers says the same.
NOT_COPIED = {"x-accel-redirect", "content-length", "content-type", "date", "connection", "server"}


def measure(options):
    with scratch() as (directory, running):
        check = Service(directory / "sendimage", options.sendimage, core=0)
        names = photos(check)
        check.start(running)
        progress(f"rendering {FILES} images")
        with alone(options):
            ours = {CHECK: peer(check, [check.sign(name, SPEC) for name in names])}
        files = stored(check.store)
        notes = []
        for title, config in [
            (REMEMBER, '[store]\nexistence = "remember"\n'),
            (ASSUME, '[store]\nexistence = "assume"\n'),
            (VERDICT, '[offload]\nmode = "auth_request"\n'),
        ]:
            # Its own gate and nginx, but the same files: they are rendered once.
            service = Service(directory / re.sub(r"\W+", "-", title), options.sendimage, config, 0, check.media, check.store)
            refusal = service.refusal()
            if refusal:
                notes.append(f"Not measured: {title} ({refusal.rsplit(': ', 1)[-1]}).")
                continue
            service.start(running)
            ours[title] = peer(service, [service.sign(name, SPEC) for name in names])
        if stored(check.store) != files:
            sys.exit("the services do not share their renditions")
        peers = {
            STATIC: start_static(running, directory, check.store, files),
            FLOOR: start_floor(running, directory, check.store, files),
            FLOOR_AS_OURS: start_floor(running, directory, check.store, files, check, names),
            **hyper(options, running, directory, check.store, files),
            **ours,
        }
        if options.peers:
            # Imported here: it is made of parts of this file.
            import django_peers

            slow, said = django_peers.start(options, running, directory, check.store, files)
            peers.update(slow)
            notes += said
        sizes = [(check.store / name).stat().st_size for name in files]
        results, others = in_rounds(options, peers)
        return report(results, sizes, options, [str(others), *notes])


def floor(options):
    """nginx alone and the floor, without sendimage."""
    with scratch() as (directory, running):
        store = directory / "renditions"
        store.mkdir()
        files = [f"{number:04}.jpg" for number in range(FILES)]
        for name in files:
            (store / name).write_bytes(os.urandom(30_000))
        peers = {
            STATIC: start_static(running, directory, store, files),
            FLOOR: start_floor(running, directory, store, files),
        }
        results, others = in_rounds(options, peers)
        return report(results, [30_000] * FILES, options, [str(others)])


class Peer:
    """A listening nginx, the paths to ask it for, a file of header lines to ask with in turn, and the processes whose CPU time
    counts."""

    def __init__(self, port, paths, processes, headers=None):
        self.port, self.paths, self.processes, self.headers = port, paths, processes, headers

    def check(self):
        """Every path answers 200 with a body before anything is timed (and with sendimage, is rendered by it)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        lines = pathlib.Path(self.headers).read_text().splitlines() if self.headers else []
        for number, path in enumerate(pathlib.Path(self.paths).read_text().split()):
            headers = dict([lines[number % len(lines)].split(": ", 1)]) if lines else {}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or len(body) < 1000:
                sys.exit(f"{path}: {answer.status}, {len(body)} bytes")
        connection.close()
        return self


def photos(service):
    first = service.home / "photo.jpg"
    run([service.sendimage, "sample-photo", first, "--size", "800x600"])
    names = [service.another(first) for _ in range(FILES)]
    service.check_signature(names[0], SPEC)
    return names


def peer(service, paths, headers=None):
    processes = {"nginx": service.nginx, "sendimage": service.process}
    return Peer(service.port, paths_file(service.home, "sendimage", paths), processes, headers).check()


def stored(store):
    files = sorted(str(path.relative_to(store)) for path in store.rglob("*.jpg"))
    if len(files) != FILES:
        sys.exit(f"{len(files)} files in the store, not {FILES}")
    return files


def start_static(running, directory, store, files):
    port = free_port()
    home = directory / "static"
    conf = whole(home, f"""
    server {{
        listen 127.0.0.1:{port};
        location /images/ {{
            alias {store}/;
            open_file_cache max=10000;
            open_file_cache_valid 60s;
            default_type image/jpeg;
            sendfile on;
            tcp_nopush on;
        }}
    }}""")
    nginx = start_nginx(running, home, conf, port, 0)
    return Peer(port, paths_file(directory, "static", [f"/images/{name}" for name in files]), {"nginx": nginx}).check()


def start_floor(running, directory, store, files, like=None, names=()):
    """The upstream answers from nginx's own memory. Like a service: behind the config that is printed for it, with the
    headers that it answers with. Otherwise with the least that X-Accel needs in front, and the file's name alone.
    """
    name = "floor-like" if like else "floor"
    back_home, home = directory / f"{name}-back", directory / name
    home.mkdir()
    if like:
        front = Service(home, like.sendimage, core=0, media=like.media, store=store)
        port, back_socket = front.port, front.gate
        conf = front.nginx_conf(f"127.0.0.1:{port}", home)
        said = "\n".join(f'add_header {key} "{value.translate(ESCAPES)}";' for key, value in headers(like, names[0]))
    else:
        port, back_socket, said = free_port(), directory / "floor.sock", ""
        conf = lean(home, port, back_socket, store)
    back = start_nginx(running, back_home, whole(back_home, f"""
    server {{
        listen unix:{back_socket};
        location ~ ^/images/(?<name>.*)$ {{
            default_type image/jpeg;
            add_header X-Accel-Redirect /_renditions/$name;
            {said}
            return 200 "";
        }}
    }}"""), back_socket, 0)
    front = start_nginx(running, home, conf, port, 0)
    paths = paths_file(directory, name, [f"/images/{name}" for name in files])
    return Peer(port, paths, {"nginx": front, "upstream": back}).check()


def hyper(options, running, directory, store, files):
    """The floor again, with hyper and tokio in the place of the upstream's nginx; nothing where it was not built."""
    program = pathlib.Path(options.sendimage).parent / "examples" / "constant"
    if not program.exists():
        return {}
    home, port, socket = directory / "hyper", free_port(), directory / "hyper.sock"
    home.mkdir()
    log = home / "log"
    with open(log, "w", encoding="utf-8") as written:
        upstream = subprocess.Popen(pinned(0, [program, socket]), stderr=written)
    running.callback(stop, upstream)
    wait_for(upstream, socket, log)
    front = start_nginx(running, home, lean(home, port, socket, store), port, 0)
    paths = paths_file(directory, "hyper", [f"/images/{name}" for name in files])
    return {HYPER: Peer(port, paths, {"nginx": front, "upstream": upstream}).check()}


ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "$": ""})


def headers(service, name):
    """What sendimage says to nginx of a hit, beside the name of the file."""
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect(str(service.gate))
        gate.sendall(f"GET {service.sign(name, SPEC)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = gate.recv(65536).decode()
    for line in answer.splitlines()[1:]:
        key, _, value = line.partition(": ")
        if key and key.lower() not in NOT_COPIED:
            yield key, value


def lean(home, port, back_socket, store):
    return whole(home, f"""
    upstream gate {{
        server unix:{back_socket};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location ^~ /images/ {{
            proxy_pass http://gate;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location ^~ /_renditions/ {{
            internal;
            alias {store}/;
            disable_symlinks on from={store};
            add_header Content-Security-Policy "default-src 'none'; sandbox" always;
            add_header X-Content-Type-Options nosniff always;
            add_header Cache-Control "public, max-age=3600";
            sendfile on;
            tcp_nopush on;
        }}
    }}""")


def paths_file(directory, name, paths):
    file = directory / f"{name}.paths"
    file.write_text("\n".join(paths) + "\n")
    return file


def in_rounds(options, peers):
    results = {name: [] for name in peers}
    others = Meanwhile(*{process for peer in peers.values() for process in peer.processes.values()})
    names = list(peers)
    for number in range(options.rounds):
        progress(f"hit: round {number + 1} of {options.rounds}")
        # Who goes first changes from round to round.
        with alone(options), others:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                load(peers[name], 1)
                results[name].append(load(peers[name], options.seconds))
    return results, others


def load(peer, seconds):
    before = {name: cpu_seconds(process.pid) for name, process in peer.processes.items()}
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(LUA), f"http://127.0.0.1:{peer.port}"]
    environment = {**os.environ, "PATHS": str(peer.paths), "HEADERS": str(peer.headers or os.devnull)}
    done = subprocess.run(pinned(-1, command), env=environment, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if done.returncode != 0 or line is None:
        sys.exit(f"wrk failed:\n{done.stdout}{done.stderr}")
    result = json.loads(line)
    if result["errors"]:
        sys.exit(f"{result['errors']} of {result['requests']} requests failed")
    result["per_second"] = result["requests"] / result["seconds"]
    result["cpu_us"] = {
        name: 1e6 * (cpu_seconds(process.pid) - before[name]) / result["requests"] for name, process in peer.processes.items()
    }
    return result


def report(results, sizes, options, notes):
    floors = [name for name in [FLOOR, FLOOR_AS_OURS] if name in results]
    series = lambda name, key: [round[key] for round in results[name]]  # noqa: E731
    cpu = lambda name, process: [round["cpu_us"][process] for round in results[name]]  # noqa: E731
    rows = []
    for name in results:
        per_second = series(name, "per_second")
        behind = [process for process in results[name][0]["cpu_us"] if process != "nginx"]
        row = [
            name,
            f"{statistics.median(per_second):,.0f}",
            *(best(per_second, series(base, "per_second")) for base in [STATIC, *floors]),
            f"{statistics.median(series(name, 'p50_us')) / 1000:.2f}",
            f"{statistics.median(series(name, 'p99_us')) / 1000:.2f}",
            spread(ratios(series(name, "p99_us"), series(FLOOR, "p99_us"))),
            " + ".join(f"{statistics.median(cpu(name, process)):.1f}" for process in results[name][0]["cpu_us"]),
            "-".join(spread(ratios(cpu(name, process), cpu(FLOOR, "upstream"))) for process in behind) or "-",
        ]
        rows.append(row)
    text = (
        f"## A stored rendition ({len(sizes):,} files of {statistics.mean(sizes) / 1000:.0f} KB, {CONNECTIONS} connections, "
        f"{options.seconds} s a turn, servers on one core)\n\n"
    )
    head = ["", "requests/s", "of static", *(f"of the {name}" for name in floors), "p50 ms", "p99 ms", "p99, of the floor's"]
    head += ["CPU us a request: nginx + behind it", "CPU behind nginx, of the floor's"]
    text += table(head, rows) + "\n" + "".join(f"{note}\n" for note in [*beside_hyper(results, cpu), *notes])
    return text + "\n" + "".join(targets(results, series, cpu))


def beside_hyper(results, cpu):
    """How much of the gate's time is its own, and how much any service on hyper and tokio would take."""
    gates = [name for name in [CHECK, REMEMBER, ASSUME] if name in results]
    if HYPER in results and gates:
        found = [f"{spread(ratios(cpu(name, 'sendimage'), cpu(HYPER, 'upstream')))} ({name})" for name in gates]
        yield f"CPU behind nginx, of that of hyper with a constant answer: {', '.join(found)}.\n"


def best(ours, theirs):
    """As `spread`, and the best of one side beside the best of the other."""
    return f"{spread(ratios(ours, theirs))}, best {max(ours) / max(theirs):.2f}"


def targets(results, series, cpu):
    """What was aimed at, and whether it was met: requests by the best of the rounds, all else by their median."""
    behind = lambda name: (cpu(name, "sendimage"), cpu(FLOOR, "upstream"))  # noqa: E731
    slowest = lambda name: (series(name, "p99_us"), series(FLOOR, "p99_us"))  # noqa: E731
    for name, base, least in [(CHECK, FLOOR, 0.95), (VERDICT, STATIC, 0.75)]:
        if name in results:
            best = max(series(name, "per_second")) / max(series(base, "per_second"))
            yield verdict(f"{name}: requests/s, the best of the rounds, of the best of {base}", best, least=least)
    aims = [
        (CHECK, "CPU behind nginx, of the floor's", behind, {"most": 1.3}),
        (ASSUME, "CPU behind nginx, of the floor's", behind, {"most": 1.2}),
        (CHECK, "p99, of the floor's", slowest, {"most": 1.5}),
    ]
    for name, text, sides, bound in aims:
        if name in results:
            yield verdict(f"{name}: {text}", statistics.median(ratios(*sides(name))), **bound)
