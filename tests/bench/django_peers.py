"""The slow peers of the hit (--peers): what a Django site has for the same job, X-Accel-Redirect out of a view.

Wagtail's dynamic serve view with its SendFileView, and the least view around django-sendfile2: `django_site.py`. They get
what does them good: the files that sendimage rendered, so none is made here; gunicorn's gthread worker, since its sync one
closes every connection; no middleware, a lasting connection to SQLite, a cache in memory that holds every rendition.
But Wagtail's view announces the file's length for a body that it leaves to nginx, and nginx then closes the connection.
"""

import os
import pathlib
import subprocess
import sys

from hit import SPEC, Peer, lean, paths_file
from rounds import alone, progress
from service import free_port, on, start_nginx, stop, wait_for

TITLES = {"wagtail": "Wagtail SendFileView, gunicorn", "sendfile": "Django view with django-sendfile2, gunicorn"}
PACKAGES = ["wagtail>=7", "django-sendfile2>=0.7", "gunicorn>=27"]
HERE = pathlib.Path(__file__).parent
# One thread: more share one core and one interpreter lock, and only wait for each other.
THREADS = 1
# Longer than nginx keeps an idle connection (60 s): the one that closes is nginx, and never while it sends a request.
KEEP_ALIVE = 75


def start(options, running, directory, store, files):
    """The peers by their titles, and notes for the report."""
    python = installed(options)
    if not python:
        return {}, [f"Not measured: {title} (pip could not install it)." for title in TITLES.values()]
    peers = {}
    with alone(options):
        for kind, title in TITLES.items():
            progress(f"starting {title}")
            peers[title] = start_one(running, directory / kind, python, kind, store, files)
    notes = [
        f"The Django peers: the same files; gunicorn with one gthread worker of {THREADS} thread, upstream keepalive, no "
        "middleware. Wagtail verifies its signature, reads the image from SQLite and the rendition from a locmem cache that "
        "holds them all; its view announces a length without a body, so nginx connects anew for each request. The view with "
        "django-sendfile2 verifies a `django.core.signing` signature, has no database, and its connections are kept.",
    ]
    return peers, notes


def start_one(running, home, python, kind, store, files):
    home.mkdir()
    environment = {**os.environ, "SITE": kind, "SITE_FOLDER": str(home), "SITE_STORE": str(store), "SITE_SPEC": SPEC}
    command = [python, HERE / "django_site.py"]
    done = subprocess.run(command, input="\n".join(files), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the site of {TITLES[kind]} could not be made:\n{done.stderr}")
    back_socket, port = home / "gunicorn.sock", free_port()
    command = [python, "-m", "gunicorn", "--chdir", HERE, "--bind", f"unix:{back_socket}", "--no-control-socket"]
    command += ["--workers", "1", "--worker-class", "gthread", "--threads", str(THREADS), "--keep-alive", str(KEEP_ALIVE)]
    with open(home / "gunicorn.log", "w", encoding="utf-8") as log:
        command = on(0, [*map(str, command), "django_site:application"])
        gunicorn = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    running.callback(stop, gunicorn)
    wait_for(gunicorn, back_socket, home / "gunicorn.log")
    front = home / "nginx"
    nginx = start_nginx(running, front, lean(front, port, back_socket, store), port, 0)
    paths = paths_file(home, kind, done.stdout.split())
    return Peer(port, paths, {"nginx": nginx, "gunicorn": gunicorn}).check()


def versions(options):
    python = installed(options)
    if python:
        script = "import sys, importlib.metadata as known\nfor name in sys.argv[1:]: print(name, known.version(name))"
        names = ["wagtail", "django", "django-sendfile2", "gunicorn"]
        yield from subprocess.check_output([python, "-c", script, *names], text=True).splitlines()
        yield "Python " + subprocess.check_output([python, "-V"], text=True).split()[1]


def installed(options):
    """The Python that has the peers, or nothing: looked for once, so that a refusal is told once."""
    if not hasattr(options, "django_python"):
        options.django_python = install(options)
    return options.django_python


def install(options):
    venv = options.directory.absolute() / "venv-django"
    python = venv / "bin" / "python"
    if has_all(python):
        return python
    progress("installing Wagtail, django-sendfile2 and gunicorn")
    commands = [
        [sys.executable, "-m", "venv", venv],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    ]
    with alone(options):
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
                progress(f"skipped: {' and '.join(TITLES.values())}: not installed ({said[-1]})")
                return None
    return python


def has_all(python):
    if not python.exists():
        return False
    command = [python, "-c", "import wagtail, django_sendfile, gunicorn"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
