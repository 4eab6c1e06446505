"""Limits of what a guest reads from the store and writes to it: how well they hold, and what a migration costs another guest's faults."""
import contextlib
import mmap
import os
import random
import subprocess
import threading
import time

from .cold import SEED, quantile
from .host import join
from .programs import Load, Tierfs

MIB = 1 << 20
BLOCK, TRANSFER = 16 << 10, MIB
THREADS = 8
READ_IOPS, READ_BPS, WRITE_BPS = 2000, 30 * MIB, 20 * MIB


class Subject:
    """A file of content that cannot be compressed, cold, and one to write to."""

    def __init__(self, bench, stack):
        self.size = bench.plan.limits
        self.tierfs = stack.enter_context(Tierfs(bench.host, self.size))
        self.fds = {name: os.open(self.tierfs.path(name), os.O_RDWR | os.O_CREAT | os.O_DIRECT) for name in ("read", "written")}
        for fd in self.fds.values():
            stack.callback(os.close, fd)
            os.ftruncate(fd, self.size)
        for offset in range(0, self.size, TRANSFER):
            os.pwritev(self.fds["read"], [fresh(TRANSFER)], offset)

    def limit(self, name, **values):
        subprocess.run([self.tierfs.tierctl, "set", self.tierfs.path(name), *(f"cold.{key}={value}" for key, value in values.items())],
                       check=True, stdout=subprocess.DEVNULL)

    def used(self, name, use, key):
        return self.tierfs.stat(name)["traffic"][use][key]


def fresh(length):
    buffer = mmap.mmap(-1, length)
    buffer[:] = os.urandom(length)
    return buffer


def rate(seconds, work, count):
    """What `count` says grows by, a second, while threads work; without the first half of a second, in which a burst may go."""
    end = time.monotonic() + seconds + 1
    threads = [threading.Thread(target=work, args=(turn, end)) for turn in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    begin, first = time.monotonic(), count()
    time.sleep(seconds)
    last, stop = count(), time.monotonic()
    for thread in threads:
        thread.join()
    return (last - first) / (stop - begin)


def report(bench, name, got, wanted):
    bench.report.add(f"limits.{name}", "% from the limit", [abs(100 * got / wanted - 100)], goal=5, better="lower", a_second=got, limit=wanted,
                     threads=THREADS, seconds=bench.plan.limits_s)


def reads(bench, subject, unit, name, key, limit):
    def work(turn, end):
        order, buffer = random.Random(turn), mmap.mmap(-1, unit)
        while time.monotonic() < end:
            os.preadv(subject.fds["read"], [buffer], order.randrange(subject.size // unit) * unit)

    subject.limit("read", **{key: limit})
    got = rate(bench.plan.limits_s, work, lambda: subject.used("read", "direct", "reads" if key == "read_iops" else "read_bytes"))
    subject.limit("read", **{key: "none"})
    report(bench, name, got, limit)


def writes(bench, subject):
    def work(turn, end):
        buffer, offset = fresh(TRANSFER), turn * TRANSFER
        while time.monotonic() < end:
            buffer[:16] = os.urandom(16) # the rest is new to the file, or was written over
            os.pwritev(subject.fds["written"], [buffer], offset % subject.size)
            offset += THREADS * TRANSFER

    subject.limit("written", write_bps=WRITE_BPS)
    got = rate(bench.plan.limits_s, work, lambda: subject.used("written", "direct", "written_bytes"))
    report(bench, "write_bps", got, WRITE_BPS)


def demotion(bench, subject):
    """A guest that dirties more than there is: what leaves DRAM for its sake is as fast as it may be."""
    subject.limit("written", write_bps=WRITE_BPS)
    fd = os.open(subject.tierfs.path("written"), os.O_RDWR)

    def work(turn, end):
        offset = turn * TRANSFER
        while time.monotonic() < end:
            os.pwrite(fd, os.urandom(TRANSFER), offset % subject.size)
            offset += THREADS * TRANSFER

    with contextlib.closing(os.fdopen(fd, "rb")):
        got = rate(bench.plan.limits_s, work, lambda: sum(subject.used("written", use, "written_bytes") for use in ("direct", "demotion")))
    report(bench, "demotion", got, WRITE_BPS)
    subject.limit("written", write_bps="none")


def migration(bench, subject):
    """p99 of cold faults of a guest, alone and beside a tool that streams another file at full speed, in turns. Each has a cgroup."""
    with Load(bench.host, attached=True) as load:
        load.do("map", "m", subject.tierfs.path("guest"), subject.size)
        load.do("fill", "m", bench.plan.ratio, SEED)
    samples = {False: [], True: []}
    for turn in range(2 * bench.plan.limits_rounds):
        beside = bool(turn % 2)
        subject.tierfs.demote("guest")
        with contextlib.ExitStack() as stack:
            guest, tool = (stack.enter_context(bench.host.processors()) for _ in range(2))
            load = stack.enter_context(Load(bench.host, attached=True, before=lambda: join(guest)))
            if beside:
                sender = subprocess.Popen(["sh", "-c", 'while :; do "$0" send "$1"; done >/dev/null', subject.tierfs.tierctl, subject.tierfs.path("read")],
                                          preexec_fn=lambda: join(tool), start_new_session=True, stderr=subprocess.DEVNULL)
                stack.callback(sender.wait)
                stack.callback(os.killpg, sender.pid, 15)
            load.do("map", "m", subject.tierfs.path("guest"), subject.size)
            answer = load.do("latency", "m", "random", 1, 0, bench.plan.limits_faults, BLOCK, SEED + turn)
            samples[beside].append(answer)
    ratio = [quantile(b["hist"], 0.99) / quantile(a["hist"], 0.99) for a, b in zip(samples[False], samples[True])]
    bench.report.add("limits.migration.p99", "of alone", ratio, goal=1.5, better="lower", faults=bench.plan.limits_faults)


def limits(bench):
    """Limits of the store, for reads of 8 threads, writes and demotion; and cold faults beside a migration."""
    with contextlib.ExitStack() as stack:
        subject = Subject(bench, stack)
        reads(bench, subject, BLOCK, "read_iops", "read_iops", READ_IOPS)
        reads(bench, subject, BLOCK, "read_bps", "read_bps", READ_BPS)
        reads(bench, subject, TRANSFER, "read_bps.1M", "read_bps", READ_BPS)
        writes(bench, subject)
        demotion(bench, subject)
        migration(bench, subject)
