"""More cold renditions asked for than the workers can make: what is still made, what hits feel, how refusals look.

First as many at once as there are workers, each asking for the next when it has one: the capacity. Then three times that,
open loop: asked for at fixed moments whatever became of those before. Beside both, hits at a fixed rate. Everything goes
through nginx; every cold rendition is of another image.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import time

from rounds import alone, progress, spread, table
from service import Meanwhile, Service, photo, scratch, verdict

SPEC = "fill-400x300|jpegquality-80"
HITS_PER_SECOND = 200
HIT_FILES = 50
TIMES = 3
ROUNDS = 3


def measure(options):
    seconds = max(options.seconds, 5)
    with scratch() as (directory, running):
        source = photo(options, directory)
        service = Service(directory / "sendimage", options.sendimage)
        hits = [service.sign(service.another(source), SPEC) for _ in range(HIT_FILES)]
        service.start(running)
        for path in hits:
            service.rendition(path)
        cold = lambda: service.sign(service.another(source), SPEC)  # noqa: E731
        results, others = [], Meanwhile(service.process, service.nginx)
        for number in range(min(options.rounds, ROUNDS)):
            progress(f"overload: round {number + 1} of {min(options.rounds, ROUNDS)}")
            # More than a core or two make: named before, so that linking files is not measured.
            ready = [cold() for _ in range(seconds * 100 * len(os.sched_getaffinity(0)))]
            with alone(options), others, ahead_of_others():
                quiet = asyncio.run(load(service.port, hits, [], None, 2))
                busy = asyncio.run(load(service.port, hits, ready, None, seconds))
                service.drained()
                capacity = busy.cold_per_second()
                ready = [cold() for _ in range(int(TIMES * capacity * seconds) + 1)]
                flood = asyncio.run(load(service.port, hits, ready, TIMES * capacity, seconds))
                service.drained()
            results.append((quiet, busy, flood))
        return report(results, source, seconds) + f"\n{others}\n"


@contextlib.contextmanager
def ahead_of_others():
    """The loader's own waiting for a core is not the service's: where allowed, it goes first."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        yield
    else:
        try:
            yield
        finally:
            os.setpriority(os.PRIO_PROCESS, 0, 0)


class Run:
    """The answers of one load, as (status, seconds it took, whether it says when to come again)."""

    def __init__(self, seconds):
        self.seconds, self.hits, self.cold, self.late = seconds, [], [], []

    def cold_per_second(self):
        return len(self.made()) / self.seconds

    def made(self):
        return [answer for answer in self.cold if answer[0] == 200]

    def refused(self):
        return [answer for answer in self.cold if answer[0] == 503]

    def hit_ms(self, share):
        return percentile([took for _, took, _ in self.hits], share) * 1000


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


async def load(port, hits, cold, cold_per_second, seconds):
    """Hits at their rate and cold ones at theirs; without a rate, as many at once as there are cores, each with a worker.
    What is answered after the time is up does not count as made.
    """
    run, pool, tasks = Run(seconds), Pool(port), set()
    end = time.monotonic() + seconds

    async def one(path, answers):
        answer = await pool.get(path)
        if time.monotonic() <= end or answer[0] != 200:
            answers.append(answer)

    async def at_rate(paths, rate, answers):
        start = time.monotonic()
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            run.late.append(time.monotonic() - due)
            task = asyncio.create_task(one(paths[number % len(paths)], answers))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def in_turn(paths):
        while time.monotonic() < end:
            await one(next(paths, None) or sys.exit("too few images for this machine"), run.cold)

    jobs = [at_rate(hits, HITS_PER_SECOND, run.hits)]
    if cold and cold_per_second:
        jobs.append(at_rate(cold, cold_per_second, run.cold))
    elif cold:
        paths = iter(cold)
        jobs += [in_turn(paths) for _ in os.sched_getaffinity(0)]
    await asyncio.gather(*jobs)
    await asyncio.gather(*tasks)
    pool.close()
    return run


class Pool:
    """Kept-alive connections, as few as are in use at once: a request takes an idle one, or opens one."""

    def __init__(self, port):
        self.port, self.idle = port, []

    async def get(self, path):
        start = time.monotonic()
        connection = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = head.split("content-length:", 1)[1].split("\r\n", 1)[0]
            await reader.readexactly(int(length))
        except (asyncio.IncompleteReadError, ConnectionError, IndexError):
            writer.close()
            return 0, time.monotonic() - start, False
        took = time.monotonic() - start
        if "connection: close" in head:
            writer.close()
        else:
            self.idle.append(connection)
        return int(head.split(" ", 2)[1]), took, "\r\nretry-after:" in head

    def close(self):
        for _, writer in self.idle:
            writer.close()


def report(results, source, seconds):
    rows = []
    for title, at in [("hits alone", 0), ("as many cold ones as workers", 1), (f"{TIMES} times the capacity", 2)]:
        runs = [round[at] for round in results]
        rows.append([
            title,
            spread([len(run.cold) / run.seconds for run in runs], 0),
            spread([run.cold_per_second() for run in runs], 1),
            spread([run.hit_ms(0.5) for run in runs], 2),
            spread([run.hit_ms(0.99) for run in runs], 1),
            spread([max(took for _, took, _ in run.hits) * 1000 for run in runs], 0),
            statuses(run.cold for run in runs),
            statuses(run.hits for run in runs),
        ])
    text = (
        f"\n## Overload ({SPEC} of a JPEG of {source.stat().st_size / 1e6:.1f} MB, {seconds} s a turn, "
        f"{HITS_PER_SECOND} hits a second beside it)\n\n"
    )
    head = ["", "cold ones answered a second", "made a second", "hits p50 ms", "hits p99 ms", "slowest hit ms", "cold", "hits"]
    text += table(head, rows) + "\n"
    median = lambda value: statistics.median(value(*round) for round in results)  # noqa: E731
    refused = [answer for *_, flood in results for answer in flood.refused()]
    made = [took for *_, flood in results for _, took, _ in flood.made()]
    text += (
        f"Of {len(refused)} refusals {sum(again for *_, again in refused)} carry Retry-After. A rendition made during the flood "
        f"took {percentile(made, 0.5):.2f} s (p99 {percentile(made, 0.99):.2f} s). The loader itself was late by "
        f"{percentile([late for *_, flood in results for late in flood.late], 0.99) * 1000:.1f} ms (p99).\n\n"
    )
    text += verdict("made during the flood, of the capacity", median(
        lambda _, busy, flood: flood.cold_per_second() / busy.cold_per_second()), least=0.9)
    text += verdict("p99 of hits during the flood, of that beside busy workers", median(
        lambda _, busy, flood: flood.hit_ms(0.99) / busy.hit_ms(0.99)), most=2)
    text += verdict("p99 of a refusal", percentile([took for _, took, _ in refused], 0.99) * 1000, most=50, unit=" ms")
    text += verdict("refusals that say Retry-After, a share", sum(again for *_, again in refused) / max(1, len(refused)), least=1)
    return text


def statuses(lists):
    counts = {}
    for answers in lists:
        for status, *_ in answers:
            counts[status] = counts.get(status, 0) + 1
    return ", ".join(f"{count} x {status or 'cut'}" for status, count in sorted(counts.items())) or "-"
