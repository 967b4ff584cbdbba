"""What the parts that measure the running service share: nginx, sendimage serve, signed URLs, small HTTP clients, /metrics
and memory.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from rounds import TICK, Others, family, pinned

COPIES = 192


@contextlib.contextmanager
def scratch():
    """A directory that nginx's workers may enter, and a stack of what is to be stopped before it goes."""
    with tempfile.TemporaryDirectory(prefix="sendimage-bench-") as directory, contextlib.ExitStack() as running:
        directory = pathlib.Path(directory)
        directory.chmod(0o755)
        yield directory, running


class Service:
    """sendimage as an operator runs it: a unix socket behind nginx, which has the config that `proxy-conf` prints.

    `config` is added to the config file. With a `core`, all of it shares that core, and nginx has one worker.
    """

    def __init__(self, directory, sendimage, config="", core=None, media=None, store=None):
        self.home, self.sendimage, self.core = directory, sendimage, core
        self.home.mkdir(exist_ok=True)
        self.media, self.store = media or directory / "media", store or directory / "renditions"
        for folder in [self.media, self.store]:
            folder.mkdir(exist_ok=True)
        self.port, self.ops_port, self.gate = free_port(), free_port(), directory / "gate.sock"
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = base64.b16encode(os.urandom(16)).decode()
        self.config = directory / "sendimage.toml"
        self.config.write_text(f"""
[server]
listen = "unix:{self.gate}"
ops_listen = "127.0.0.1:{self.ops_port}"
public_url = "{self.url}"
[signing]
secret = "{self.key}"
[sources.media]
kind = "fs"
root = "{self.media}"
""" + with_table(config, "store", f'root = "{self.store}"'))
        self.process = self.nginx = None
        self.links = 0

    def start(self, running):
        """Until both answer. Exits with the log if they do not."""
        self.start_gate(running)
        wait_for(self.process, self.gate, self.home / "sendimage.log")
        self.start_nginx(running)
        return self

    def start_gate(self, running):
        with open(self.home / "sendimage.log", "w", encoding="utf-8") as log:
            command = on(self.core, [self.sendimage, "serve", "-c", self.config])
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        running.callback(stop, self.process)

    def start_nginx(self, running):
        home = self.home / "nginx"
        home.mkdir(exist_ok=True)
        self.nginx = start_nginx(running, home, self.nginx_conf(f"127.0.0.1:{self.port}", home), self.port, self.core)

    def nginx_conf(self, listen, home):
        """As printed, but without a log, and with one worker where there is one core. Exits if this build refuses."""
        done = self.run("nginx-conf", "-c", self.config, "--whole", "--listen", listen, "--directory", home)
        conf = re.sub(r"access_log .*;", "access_log off;", done)
        if self.core is not None:
            conf = conf.replace("worker_processes auto;", "worker_processes 1;")
        return ("user root;\n" if os.geteuid() == 0 else "") + conf

    def refusal(self):
        """Why this build does not take this config, or nothing."""
        command = [self.sendimage, "nginx-conf", "-c", self.config]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stderr.strip().splitlines()[-1] if done.returncode else None

    def run(self, *arguments):
        return run([self.sendimage, *arguments])

    def sign(self, name, spec):
        """The path of a native signed URL of an image in `media`."""
        text = f"sendimage-v1\nmedia\n{spec}\n{name}\n\n\n".encode()
        signature = base64.urlsafe_b64encode(hmac.digest(self.key.encode(), text, hashlib.sha256)).decode().rstrip("=")
        return f"/images/{signature}/media/{urllib.parse.quote(spec, safe='')}/{urllib.parse.quote(name)}"

    def check_signature(self, name, spec):
        """Signed here and by `sendimage sign`, a URL is the same."""
        theirs = self.run("sign", "-c", self.config, f"media/{name}", spec).strip()
        if theirs != self.url + self.sign(name, spec):
            sys.exit(f"signed {self.sign(name, spec)} here, {theirs} by sendimage sign")

    def another(self, photo):
        """The name of an image that nobody asked for before: the photo under a new name."""
        name = f"{self.links:07}{photo.suffix}"
        # In turn from among more files than wait at once: images of one file would have its decode in common.
        base = self.media / f".{photo.stem}-{self.links % COPIES}{photo.suffix}"
        if not base.exists():
            shutil.copyfile(photo, base)
        os.link(base, self.media / name)
        self.links += 1
        return name

    def fetch(self, path, headers=None):
        """A new connection, one answer: status, headers, body."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def rendition(self, path, headers=None):
        """As `fetch`, but must be an image: its media type and its bytes."""
        status, head, body = self.fetch(path, headers)
        if status != 200:
            sys.exit(f"{path}: {status} {body[:200]!r}\n{self.log()}")
        return head["Content-Type"], body

    def ready(self):
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.ops_port, timeout=5)) as connection:
                connection.request("GET", "/health/ready")
                return connection.getresponse().status == 200
        except OSError:
            return False

    def metrics(self):
        """Every sample by its name and labels, as in `sendimage_renders_total{outcome="done",format="jpeg"}`."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.ops_port, timeout=5)) as connection:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")}

    def drained(self, timeout=60):
        """Waits until no job waits or runs."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            metrics = self.metrics()
            if not metrics["sendimage_render_queue_depth"] and not metrics["sendimage_render_memory_bytes"]:
                return
            time.sleep(0.02)
        sys.exit(f"jobs still wait or run after {timeout} s\n{self.log()}")

    def memory(self):
        """Resident bytes of the gate and of its workers; a page that several share is divided among them (PSS)."""
        gate, *workers = map(pss, family(self.process.pid))
        return gate, sum(workers)

    def log(self):
        return (self.home / "sendimage.log").read_text()[-3000:]


class Meanwhile(Others):
    """What others took while these processes, which nobody waits for, ran."""

    def __init__(self, *processes):
        super().__init__()
        self.processes = processes

    def now(self):
        busy, whole = super().now()
        return busy - sum(spent(pid) for process in self.processes for pid in family(process.pid)), whole


def spent(pid):
    """CPU seconds of a process, and of those of its children that ended: workers are replaced by and by."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:15])) / TICK
    except FileNotFoundError:
        return 0


def with_table(config, table, line):
    """The config with a line in one of its tables, which may be there already: a TOML table is opened once."""
    if f"[{table}]" in config:
        return config.replace(f"[{table}]", f"[{table}]\n{line}")
    return f"{config}\n[{table}]\n{line}\n"


def pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return 0


def photo(options, directory):
    """A JPEG of 12 megapixels: a photograph where the cold part's sources are there, else the sample photo."""
    found = sorted((options.directory / "sources").glob("*.jpg"))
    for each in found:
        if jpeg_pixels(each) in range(11_000_000, 13_000_000):
            return each
    made = directory / "photo.jpg"
    run([options.sendimage, "sample-photo", made, "--size", "4000x3000"])
    return made


def jpeg_pixels(file):
    """Width times height from the first frame header."""
    data, at = file.read_bytes(), 2
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in (0xC0, 0xC1, 0xC2):
            return int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def together(jobs):
    """Runs them at the same moment, each in a thread; their results in order, and the seconds from start to last end."""
    barrier, results = threading.Barrier(len(jobs) + 1), [None] * len(jobs)

    def work(number, job):
        barrier.wait()
        results[number] = job()

    threads = [threading.Thread(target=work, args=each) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if None in results:
        sys.exit("a request failed")
    return results, seconds


def whole(home, http, workers=1):
    """A config for nginx that needs nothing outside of `home`."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    home.mkdir(exist_ok=True)
    temporary = "".join(f"    {kind}_temp_path {home}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    return f"""{user}worker_processes {workers};
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
{temporary}{http}
}}
"""


def start_nginx(running, home, conf, address, core=None):
    file = home / "nginx.conf"
    file.write_text(conf)
    command = ["nginx", "-e", "stderr", "-p", home, "-c", file, "-g", "daemon off;"]
    with open(home / "stderr.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(on(core, command), stderr=log)
    running.callback(stop, process)
    wait_for(process, address, home / "stderr.log")
    return process


def on(core, command):
    return command if core is None else pinned(core, command)


def stop(process):
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(process, address, log):
    family, target = (socket.AF_INET, ("127.0.0.1", address)) if isinstance(address, int) else (socket.AF_UNIX, str(address))
    for _ in range(1000):
        with socket.socket(family) as probe:
            if probe.connect_ex(target) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    sys.exit(f"{' '.join(map(str, process.args))} does not come up:\n{log.read_text()}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def verdict(text, found, least=None, most=None, unit=""):
    """A line of the report: what was aimed at, what was found."""
    met = found >= least if most is None else found <= most
    aim = f"at least {least:g}{unit}" if most is None else f"at most {most:g}{unit}"
    return f"- {'met' if met else '**missed**'}: {text}: {found:.2f}{unit}, {aim} wanted\n"
