"""Several guests in one budget that is too small for them: what each gets of it, and what one keeps that was promised it."""
import contextlib
import time

from .cold import SEED, merge, quantile
from .programs import Load, Tierfs

MIB = 1 << 20
WEIGHTS = (1, 2, 4)
THREADS = 2
VCPUS, MAIN_EVERY_US = 4, 5000


class Guests:
    """As many guests as there are weights, of one size; the budget is half of their sum. All work at random on all that they have."""

    def __init__(self, bench, stack):
        self.plan, self.size = bench.plan, bench.plan.shares
        self.tierfs = stack.enter_context(Tierfs(bench.host, self.size * len(WEIGHTS) // 2))
        self.names = [f"guest{weight}" for weight in WEIGHTS]
        self.loads = [stack.enter_context(Load(bench.host, attached=True)) for _ in self.names]
        for name, load in zip(self.names, self.loads):
            load.do("map", "m", self.tierfs.path(name), self.size)
            load.do("fill", "m", bench.plan.ratio, SEED)

    def work(self, seconds):
        """All at once; yields each second what tierctl says of each."""
        begin = time.monotonic()
        for turn, load in enumerate(self.loads):
            load.begin("access", "m", "mix", seconds + 0.5, "zipf:0:4K", THREADS, turn + 1)
        for second in range(seconds + 1):
            time.sleep(max(0.0, begin + second - time.monotonic()))
            yield [self.tierfs.stat(name) for name in self.names]
        for load in self.loads:
            load.finish()


def deviation(resident):
    """By how much, in percent, the one that is farthest from it misses its part of what they have together."""
    whole = sum(resident)
    return max(abs(100 * have * sum(WEIGHTS) / (whole * weight) - 100) for have, weight in zip(resident, WEIGHTS))


def weights(bench, guests):
    for name, weight in zip(guests.names, WEIGHTS):
        guests.tierfs.share(name, weight=100 * weight)
    trace = [[stat["resident_bytes"] for stat in stats] for stats in guests.work(bench.plan.shares_s + bench.plan.shares_more_s)]
    late = trace[bench.plan.shares_s:]
    bench.report.add("shares.weights", "% from " + ":".join(map(str, WEIGHTS)), [deviation(resident) for resident in late], goal=5, better="lower",
                     guest_bytes=guests.size, dram_bytes=guests.tierfs.options["dram"], after_s=bench.plan.shares_s, weights=WEIGHTS,
                     resident_each_second=trace, threads=THREADS)


def promised(bench, guests):
    """The smallest gets back all that it has, and keeps it."""
    for name in guests.names:
        guests.tierfs.share(name, weight="none")
    quiet, name = guests.loads[0], guests.names[0]
    guests.tierfs.share(name, min=guests.size)
    quiet.do("latency", "m", "sequential", 1, 0, guests.size // 4096, 4096, SEED)
    stats = list(guests.work(bench.plan.shares_s))
    seconds = [[stat["fault_count"] for stat in row] for row in stats]
    faults = [[b - a for a, b in zip(before, after)] for before, after in zip(seconds, seconds[1:])]
    mean = sum(row[0] for row in faults) / len(faults)
    bench.report.add("shares.min", "faults/s", [mean], goal=1, better="lower", guest_bytes=guests.size, min_bytes=guests.size,
                     dram_bytes=guests.tierfs.options["dram"], faults_each_second=faults, threads=THREADS,
                     resident_each_second=[[stat["resident_bytes"] for stat in row] for row in stats])


def main_thread(bench):
    """A machine whose main thread reads a cold word now and then, alone and while its four other threads thrash, in turns. The main thread is who
    holds the locks that all of a VMM wait for."""
    plan = bench.plan
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, plan.shares))
        load = stack.enter_context(Load(bench.host, attached=True))
        for name, size in (("hot", MIB), ("cold", 2 * plan.shares), ("busy", 2 * plan.shares)):
            load.do("map", name, tierfs.path(name), size)
            load.do("fill", name, plan.ratio, SEED)
        samples, at = {False: [], True: []}, 0
        for turn in range(2 * plan.main_rounds):
            busy = ("busy", VCPUS) if turn % 2 else ()
            got = load.do("visit", "hot", "cold", plan.main_s, MAIN_EVERY_US, 0, 16384, at, turn + 1, *busy)["cold"]
            at += got["count"]
            samples[bool(busy)].append(got)
        alone, beside = samples[False], samples[True]
        pooled = [quantile(merge(got["hist"] for got in side), 0.99) / 1000 for side in (beside, alone)]
        bench.report.add("shares.main_thread.p99", "us", [got["p99_ns"] / 1000 for got in beside], "alone", [got["p99_ns"] / 1000 for got in alone],
                         pooled=pooled, goal=2, better="lower", vcpus=VCPUS, p50_ns=[got["p50_ns"] for got in beside],
                         alone_p50_ns=[got["p50_ns"] for got in alone], accesses=sum(got["count"] for got in beside))


def shares(bench):
    """Three busy guests in half of their memory: DRAM by weight, what one keeps that was promised all that it has; and a main thread's faults."""
    main_thread(bench)
    with contextlib.ExitStack() as stack:
        guests = Guests(bench, stack)
        weights(bench, guests)
        promised(bench, guests)
