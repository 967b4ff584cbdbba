"""What both benches share: cores, processes seen through /proc, medians, tables."""

import contextlib
import fcntl
import os
import statistics
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")


def progress(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(options):
    """Holds the lock of --lock, if there is one, so that nobody who asks for it too disturbs what is timed."""
    if not options.lock:
        yield
        return
    with open(options.lock, "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Others:
    """How much of all cores others took meanwhile: what ran, less what our children, all waited for, ran."""

    def __init__(self):
        self.taken = self.whole = 0

    def __enter__(self):
        self.before = self.now()

    def __exit__(self, *_):
        taken, whole = (after - before for after, before in zip(self.now(), self.before))
        self.taken, self.whole = self.taken + taken, self.whole + whole

    @staticmethod
    def now():
        with open("/proc/stat", encoding="ascii") as stat:
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
        ours = os.times()
        busy = (user + nice + system + irq + softirq + steal) / TICK - sum(ours[:4])
        return busy, time.monotonic() * os.cpu_count()

    def __str__(self):
        percent = max(0, 100 * self.taken / self.whole)
        doubt = ": measure again when it is quiet." if percent > 10 else "."
        return f"Others took {percent:.0f} % of the machine meanwhile{doubt}"


def pinned(core, command):
    """The command on one core; where there is only one, as it is."""
    cores = sorted(os.sched_getaffinity(0))
    return command if len(cores) < 2 else ["taskset", "-c", str(cores[core]), *command]


def family(pid):
    """A process and all below it."""
    pids = [pid]
    for parent in pids:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as children:
                    pids += [int(child) for child in children.read().split()]
        except FileNotFoundError:
            pass
    return pids


def cpu_seconds(pid):
    """CPU time of a process and all below it so far."""
    total = 0
    for each in family(pid):
        try:
            with open(f"/proc/{each}/stat", encoding="utf-8") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except FileNotFoundError:
            pass
    return total / TICK


def run_watched(command):
    """Runs a command; gives its output and the peak resident bytes of it and all below it, together.

    VmHWM is asked for while it runs: the rusage of a child begins with the memory of whoever started it. Pages of the program
    itself that several of its processes show are in memory once, and are counted once.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks, shown_again, turn = {}, 0, 0
    while process.poll() is None:
        pids = family(process.pid)
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/status", encoding="utf-8") as status:
                peak = next((line for line in status if line.startswith("VmHWM")), None)
                if peak:
                    peaks[pid] = max(peaks.get(pid, 0), int(peak.split()[1]) * 1024)
        if turn % 16 == 15 and len(pids) > 1:
            shown_again = max(shown_again, sum(map(program_shown_again, pids)))
        turn += 1
        time.sleep(0.01)
    output = process.stdout.read()
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}")
    return output, sum(peaks.values()) - shown_again


def program_shown_again(pid):
    """Bytes of a process' own program that others show too, less its share of them: over all that do, what is counted twice."""
    total, counts = 0, False
    try:
        program = os.readlink(f"/proc/{pid}/exe")
        with open(f"/proc/{pid}/smaps", encoding="utf-8") as maps:
            for line in maps:
                name, *rest = line.split()
                if not name.endswith(":"):
                    counts = rest[-1:] == [program]
                elif counts and name in ("Rss:", "Pss:"):
                    total += int(rest[0]) * (1024 if name == "Rss:" else -1024)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return total


def spread(values, digits=2):
    """Median, lowest and highest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(ours, theirs):
    """Round by round; both sides were measured in each of these rounds, or there is no ratio."""
    if not ours or len(ours) != len(theirs):
        sys.exit("no ratio without both sides in the same rounds")
    return [mine / other for mine, other in zip(ours, theirs)]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
