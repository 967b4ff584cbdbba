"""Requests a second of a stored rendition: through nginx and sendimage, beside nginx alone (static, open_file_cache)
and beside the floor of X-Accel (nginx in front of an upstream that does nothing but name the file).

All of a peer's servers share one core, wrk has the other; one nginx worker each; the same files for all.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from rounds import cpu_seconds, pinned, progress, ratios, spread, table

FILES = 1000
CONNECTIONS = 32
SPEC = "width-480|jpegquality-80"
LUA = pathlib.Path(__file__).with_name("cycle.lua")


def measure(options, sendimage):
    with tempfile.TemporaryDirectory(prefix="sendimage-bench-") as directory, contextlib.ExitStack() as running:
        directory = pathlib.Path(directory)
        directory.chmod(0o755)
        store = directory / "renditions"
        store.mkdir()
        peers = {}
        if sendimage:
            peers["nginx + sendimage"] = start_sendimage(running, directory, store, sendimage)
        else:
            for number in range(FILES):
                (store / f"{number:04}.jpg").write_bytes(os.urandom(30_000))
        files = sorted(str(path.relative_to(store)) for path in store.rglob("*.jpg"))
        if len(files) != FILES:
            sys.exit(f"{len(files)} files in the store, not {FILES}")
        peers = {
            "nginx static, open_file_cache": start_static(running, directory, store, files),
            "floor: nginx + an upstream that names the file": start_floor(running, directory, store, files),
            **peers,
        }
        sizes = [(store / name).stat().st_size for name in files]
        results = in_rounds(options, peers)
        return report(results, list(peers), sizes, options)


class Peer:
    """A listening nginx, the paths to ask it for, and the processes whose CPU time counts."""

    def __init__(self, port, paths, processes):
        self.port, self.paths, self.processes = port, paths, processes

    def check(self):
        """Every path answers 200 with a body before anything is timed (and with sendimage, is rendered by it)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for path in pathlib.Path(self.paths).read_text().split():
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or len(body) < 1000:
                sys.exit(f"{path}: {answer.status}, {len(body)} bytes")
        return self


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
    nginx = start_nginx(running, home, conf, port)
    return Peer(port, paths_file(directory, "static", [f"/images/{name}" for name in files]), {"nginx": nginx}).check()


def start_floor(running, directory, store, files):
    """The config of the front is ours in all that costs something; the upstream answers from nginx's own memory."""
    port, back_socket = free_port(), directory / "floor.sock"
    back_home, home = directory / "floor-back", directory / "floor"
    back = start_nginx(running, back_home, whole(back_home, f"""
    server {{
        listen unix:{back_socket};
        location ~ ^/images/(?<name>.*)$ {{
            default_type image/jpeg;
            add_header X-Accel-Redirect /_renditions/$name;
            return 200 "";
        }}
    }}"""), back_socket)
    front = start_nginx(running, home, whole(home, f"""
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
    }}"""), port)
    paths = paths_file(directory, "floor", [f"/images/{name}" for name in files])
    return Peer(port, paths, {"nginx": front, "upstream": back}).check()


def start_sendimage(running, directory, store, sendimage):
    """As an operator runs it: a unix socket, and the config that `nginx-conf` prints (one worker, no access log)."""
    port, ops_port = free_port(), free_port()
    media, home, gate = directory / "media", directory / "nginx", directory / "gate.sock"
    media.mkdir()
    home.mkdir()
    config = directory / "sendimage.toml"
    key = subprocess.run([sendimage, "keygen"], check=True, capture_output=True, text=True).stdout.strip()
    config.write_text(f"""
[server]
listen = "unix:{gate}"
ops_listen = "127.0.0.1:{ops_port}"
public_url = "http://127.0.0.1:{port}"
[signing]
secret = "{key}"
[sources.media]
kind = "fs"
root = "{media}"
[store]
root = "{store}"
""")
    subprocess.run([sendimage, "sample-photo", media / "0000.jpg", "--size", "800x600"], check=True)
    names = [f"{number:04}.jpg" for number in range(FILES)]
    for name in names[1:]:
        shutil.copyfile(media / names[0], media / name)
    progress(f"signing {FILES} URLs")
    paths = [
        subprocess.run([sendimage, "sign", "-c", config, f"media/{name}", SPEC], check=True, capture_output=True, text=True)
        .stdout.strip()
        .removeprefix(f"http://127.0.0.1:{port}")
        for name in names
    ]
    command = [sendimage, "nginx-conf", "-c", config, "--whole", "--listen", f"127.0.0.1:{port}", "--directory", home]
    conf = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    conf = conf.replace("worker_processes auto;", "worker_processes 1;")
    conf = re.sub(r"access_log .*;", "access_log off;", conf)
    if os.geteuid() == 0:
        conf = "user root;\n" + conf
    log = open(directory / "sendimage.log", "w", encoding="utf-8")
    service = subprocess.Popen(pinned(0, [sendimage, "serve", "-c", config]), stderr=log, stdout=log)
    running.callback(stop, service)
    wait_for(service, gate, directory / "sendimage.log")
    nginx = start_nginx(running, home, conf, port)
    progress(f"rendering {FILES} images")
    return Peer(port, paths_file(directory, "sendimage", paths), {"nginx": nginx, "sendimage": service}).check()


def whole(home, http):
    user = "user root;\n" if os.geteuid() == 0 else ""
    home.mkdir(exist_ok=True)
    temporary = "".join(f"    {kind}_temp_path {home}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    return f"""{user}worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
{temporary}{http}
}}
"""


def start_nginx(running, home, conf, address):
    file = home / "nginx.conf"
    file.write_text(conf)
    log = open(home / "stderr.log", "w", encoding="utf-8")
    command = ["nginx", "-e", "stderr", "-p", home, "-c", file, "-g", "daemon off;"]
    process = subprocess.Popen(pinned(0, command), stderr=log)
    running.callback(stop, process)
    wait_for(process, address, home / "stderr.log")
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(process, address, log):
    family, target = (socket.AF_INET, ("127.0.0.1", address)) if isinstance(address, int) else (socket.AF_UNIX, str(address))
    for _ in range(200):
        with socket.socket(family) as probe:
            if probe.connect_ex(target) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"{' '.join(map(str, process.args))} does not come up:\n{log.read_text()}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def paths_file(directory, name, paths):
    file = directory / f"{name}.paths"
    file.write_text("\n".join(paths) + "\n")
    return file


def in_rounds(options, peers):
    results = {name: [] for name in peers}
    names = list(peers)
    for number in range(options.rounds):
        progress(f"hit: round {number + 1} of {options.rounds}")
        # Who goes first changes from round to round.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            load(peers[name], 1)
            results[name].append(load(peers[name], options.seconds))
    return results


def load(peer, seconds):
    before = {name: cpu_seconds(process.pid) for name, process in peer.processes.items()}
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(LUA), f"http://127.0.0.1:{peer.port}"]
    done = subprocess.run(
        pinned(-1, command), env={**os.environ, "PATHS": str(peer.paths)}, capture_output=True, text=True, check=False
    )
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


def report(results, names, sizes, options):
    static, floor = ([round["per_second"] for round in results[name]] for name in names[:2])
    rows = []
    for name in names:
        rounds = results[name]
        per_second = [round["per_second"] for round in rounds]
        median = lambda key: statistics.median(round[key] for round in rounds)  # noqa: E731
        cpu = " + ".join(
            f"{statistics.median(round['cpu_us'][process] for round in rounds):.1f} {process}" for process in rounds[0]["cpu_us"]
        )
        rows.append([
            name,
            f"{statistics.median(per_second):,.0f}",
            spread(ratios(per_second, static)),
            spread(ratios(per_second, floor)),
            f"{median('p50_us') / 1000:.2f}",
            f"{median('p99_us') / 1000:.2f}",
            cpu,
        ])
    text = (
        f"## A stored rendition ({len(sizes):,} files of {statistics.mean(sizes) / 1000:.0f} KB, {CONNECTIONS} connections, "
        f"{options.seconds} s a turn, servers on one core)\n\n"
    )
    head = ["", "requests/s", "of static", "of the floor", "p50 ms", "p99 ms", "CPU us a request"]
    return text + table(head, rows)
