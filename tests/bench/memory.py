"""What the service holds after a hundred renders, and after a hundred more of the same mixture."""

import itertools
import statistics

from rounds import alone, progress, spread, table
from service import Service, photo, run, scratch, together, verdict

RENDERS = 100
RUNS = 5
SPECS = [
    "fill-400x300|format-jpeg",
    "width-800|format-webp",
    "width-640|format-png",
    "width-1600|format-jpeg",
    "fill-100x100|format-webp",
]


def measure(options):
    with scratch() as (directory, running):
        jpeg = photo(options, directory)
        webp, png, small = directory / "photo.webp", directory / "photo.png", directory / "small.jpg"
        run([options.sendimage, "render", jpeg, "width-1632|format-webp", webp])
        run([options.sendimage, "render", jpeg, "width-2000|format-png", png])
        run([options.sendimage, "render", jpeg, "width-1200|format-jpeg", small])
        results = []
        for number in range(min(options.rounds, RUNS)):
            progress(f"memory: run {number + 1} of {min(options.rounds, RUNS)}")
            service = Service(directory / f"run-{number}", options.sendimage, "[render]\nworkers = 2\n").start(running)
            # Four sources by five specs: a hundred is five times all of them, so both hundreds end with the same jobs.
            mixture = itertools.cycle(itertools.product([jpeg, webp, png, small], SPECS))
            with alone(options):
                results.append([service.memory(), after(service, mixture), after(service, mixture)])
            service.process.terminate()
            service.process.wait(30)
        return report(results)


def after(service, mixture):
    """Renders a hundred, two at a time; what is held once they are done."""
    paths = [service.sign(service.another(source), spec) for source, spec in itertools.islice(mixture, RENDERS)]
    for pair in zip(paths[::2], paths[1::2]):
        together([lambda path=path: service.rendition(path) for path in pair])
    service.drained()
    return service.memory()


def report(results):
    rows = []
    for title, at in [("at start", 0), (f"after {RENDERS} renders", 1), (f"after {2 * RENDERS}", 2)]:
        mib = [tuple(size / 2**20 for size in run[at]) for run in results]
        rows.append([title, *(spread(side, 1) for side in (*zip(*mib), [sum(each) for each in mib]))])
    grown = statistics.median(sum(second) / sum(first) for _, first, second in results)
    text = "\n## Memory (2 workers; JPEG, WebP and PNG in and out; PSS)\n\n"
    text += table(["", "gate MiB", "workers MiB", "together MiB"], rows) + "\n"
    return text + verdict(f"after {2 * RENDERS} renders, of that after {RENDERS}", grown, most=1.1)
