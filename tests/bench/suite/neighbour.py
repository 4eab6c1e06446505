"""A guest beside a client of another user that means no good: what the guest notices, against the same beside one that does nothing.

The neighbour has 32 threads, and the host may have two processors: what they take from the guest by computing is not tierfs's doing. Guest and
neighbour have a cgroup each, as a host's machines have, so that they share the processors by halves. And there are two more figures to compare
with: `spin`, the same threads on memory that is not of tierfs; and everything once more with a neighbour of SCHED_IDLE, who gets the processors
that nobody else wants (names with `low.`).
"""
import contextlib
import ctypes
import os
import resource
import select
import shutil
import signal
import subprocess
import time

from .cold import BLOCK, SEED, merge, quantile
from .host import Skip, join, mounts, unmount, wait_until
from .programs import Load, Tierfs

MIB = 1 << 20
UID = 1001
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
THREADS = 32
SPIN_BYTES = 64 * MIB
# The guest: a cold access, then so many to its resident memory, every so often.
EVERY_US, HOT_READS = 2000, 1024

# What programs of tests/prog do, each of them some times at once; prog_rough says what.
ROUGH = {"mute": ("thrash",), "pins": ("pins",) * 6, "frozen": ("stand-still",) * 4, "cut": ("cut",) * 2}
# spin: 32 threads on memory that is not of tierfs. thrash: 32 threads at random in twice the budget, in a process that answers as it should. mute:
# the same, and it answers nothing. pins: locks memory, and has devices hold it. frozen: processes that are stopped, and killed. cut: a file becomes
# as large as one may be, and small again. locked: an address space that stays locked; it has to come before those who leave it no memory.
ATTACKS = {"spin": ("spin",), "thrash": ("thrash",), "mute": ("mute",), "pins": ("pins",), "frozen": ("frozen",), "cut": ("cut",),
           "locked": ("locked",), "all": ("locked", "thrash", "mute", "pins", "frozen", "cut")}


class Stranger:
    """Another user, with copies of the programs at a place that he may read."""

    def __init__(self, host, stack, low):
        self.low, self.build = low, host.path("build")
        self.processors = stack.enter_context(host.processors())
        for name in ("bin/tierctl", "tests/bench/bench_load", "tests/prog/prog_rough", "tests/prog/prog_hostile"):
            if not os.path.exists(os.path.join(host.build, name)):
                raise Skip(f"{name} was not built")
            os.makedirs(os.path.dirname(os.path.join(self.build, name)), exist_ok=True)
            shutil.copy(os.path.join(host.build, name), os.path.join(self.build, name))
        shutil.copytree(os.path.join(host.build, "lib"), os.path.join(self.build, "lib"), symlinks=True)
        os.chmod(host.dir, 0o711)
        stack.callback(os.chmod, host.dir, 0o700)
        tierctl = os.path.join(self.build, "bin/tierctl")
        try:
            subprocess.run([tierctl, "--help"], preexec_fn=self.become, stdout=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise Skip(f"another user cannot run {tierctl}: {error}; name another place by --dir") from error

    def program(self, name):
        return os.path.join(self.build, "tests/prog/prog_" + name)

    def become(self):
        """In the child, before the program. He may lock what he likes, as a VMM with devices may, if we may allow that."""
        join(self.processors)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if self.low:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) # a run that is killed leaves nobody who waits for ever


@contextlib.contextmanager
def running(command, become=None, say=None):
    """A process with all its children, until the end."""
    process = subprocess.Popen(command, preexec_fn=become, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    try:
        if say and not (select.select([process.stdout], [], [], 30)[0] and say in process.stdout.readline()):
            raise RuntimeError(f"{' '.join(command)} does not get that far")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        process.stdout.close()


class Neighbour:
    """A client that has its memory attached all the time, and does nothing; or what `attack` says."""

    def __init__(self, bench, stack, tierfs, low):
        self.host, self.plan, self.tierfs = bench.host, bench.plan, tierfs
        self.user = Stranger(bench.host, stack, low)
        self.dir = tierfs.path("low" if low else "neighbour")
        os.mkdir(self.dir)
        os.chown(self.dir, UID, UID)
        self.load = stack.enter_context(Load(bench.host, attached=True, stranger=self.user))
        self.load.do("map", "m", os.path.join(self.dir, "own"), bench.plan.neighbour)
        self.load.do("fill", "m", bench.plan.ratio, SEED)
        self.other = stack.enter_context(Load(bench.host, stranger=self.user))
        self.other.do("map", "m", "anon", SPIN_BYTES)
        self.other.do("fill", "m", bench.plan.ratio, SEED)

    @contextlib.contextmanager
    def busy(self, load, seconds):
        load.begin("access", "m", "mix", seconds, "zipf:0:4K", THREADS, 7)
        try:
            yield
        finally:
            load.finish()

    @contextlib.contextmanager
    def locked(self):
        """Its write to a filesystem that does not answer waits with the address space locked."""
        place = self.host.path("stall")
        os.mkdir(place)
        with contextlib.ExitStack() as stack:
            stall = running([self.user.program("hostile"), "stall", place])
            lock = [self.user.program("hostile"), "lock", os.path.join(self.dir, "locked"), str(dram_of(self.plan) // 8 // MIB), os.path.join(place, "f")]
            stack.callback(unmount, place)
            stalled = stall.__enter__()
            try:
                wait_until(lambda: place in mounts(), 10, "the filesystem that does not answer")
                stack.enter_context(running(lock, self.user.become, "ready"))
            finally:
                stack.push(stall) # first: nobody who waits for it can end before
            assert stalled.poll() is None
            yield

    def attack(self, stack, name, seconds):
        """What begins here ends with the stack."""
        for what in ATTACKS[name]:
            if what in ("spin", "thrash"):
                stack.enter_context(self.busy(self.other if what == "spin" else self.load, seconds))
            elif what == "locked":
                stack.enter_context(self.locked())
            for i, thing in enumerate(ROUGH.get(what, ())):
                path = os.path.join(self.dir, f"{what}{i}")
                stack.callback(remove, path)
                stack.enter_context(running([self.user.program("rough"), thing, path, str(int(seconds) + 5), str(i + 1)], self.user.become))


def remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class Victim:
    """A guest with memory that it uses all the time, which it was promised, and with cold memory that it looks at now and then."""

    def __init__(self, bench, stack):
        self.plan, plan = bench.plan, bench.plan
        self.tierfs = stack.enter_context(Tierfs(bench.host, dram_of(plan), allow_other=None))
        os.mkdir(self.tierfs.path("victim"))
        self.tierfs.share("victim", min=plan.victim_hot)
        processors = stack.enter_context(bench.host.processors())
        self.load = stack.enter_context(Load(bench.host, attached=True, before=lambda: join(processors)))
        for name, size in (("cold", plan.victim_cold), ("hot", plan.victim_hot)):
            self.load.do("map", name, self.tierfs.path("victim/" + name), size)
            self.load.do("fill", name, plan.ratio, SEED)
        self.at, self.turn = 0, 0

    def visit(self, seconds):
        self.turn += 1
        got = self.load.do("visit", "hot", "cold", seconds, EVERY_US, HOT_READS, BLOCK, self.at, self.turn)
        self.at += got["cold"]["count"]
        return got

    def figures(self):
        cost, whole = self.tierfs.cost(), self.tierfs.stat()
        hot, cold = (self.tierfs.stat("victim/" + name) for name in ("hot", "cold"))
        return {**cost, "host_cpu_pressed_s": cpu_pressed_s(), "waited_faults": whole["waited_faults"], "promotions": whole["promotions"], "demotions": whole["demotions"],
                "victim_hot_faults": hot["fault_count"], "victim_hot_demotions": hot["demotions"], "victim_cold_promotions": cold["promotions"]}


def cpu_pressed_s():
    """For how long somebody on this host waited for a processor."""
    with contextlib.suppress(OSError, IndexError), open("/proc/pressure/cpu", encoding="utf-8") as file:
        return int(file.readline().split("total=")[1]) / 1e6
    return 0


def dram_of(plan):
    return plan.neighbour // 2


def slot(victim, neighbour, name, facts):
    """One slot beside the neighbour who does that, or nothing if there is no name."""
    with contextlib.ExitStack() as stack:
        if name:
            neighbour.attack(stack, name, victim.plan.neighbour_settle_s + victim.plan.neighbour_s)
        victim.visit(victim.plan.neighbour_settle_s)
        before = victim.figures()
        got = victim.visit(victim.plan.neighbour_s)
        for key, value in victim.figures().items():
            facts[key] = facts.get(key, 0) + value - before[key]
    return got


def report(bench, name, slots, facts):
    ours, idle = slots["attack"], slots["idle"]
    for part, label in (("hot", "resident"), ("cold", "cold")):
        pooled = [quantile(merge(got[part]["hist"] for got in side), 0.99) / 1000 for side in (ours, idle)]
        bench.report.add(f"neighbour.{name}.{label}.p99", "us", [got[part]["p99_ns"] / 1000 for got in ours], "beside an idle one",
                         [got[part]["p99_ns"] / 1000 for got in idle], pooled=pooled, goal=1.2, better="lower",
                         p50_ns=[got[part]["p50_ns"] for got in ours], p999_ns=[got[part]["p999_ns"] for got in ours],
                         accesses=sum(got[part]["count"] for got in ours), idle_p50_ns=[got[part]["p50_ns"] for got in idle], **facts)
    bench.report.add(f"neighbour.{name}.cold.rate", "1/s", [got["cold"]["count"] / got["seconds"] for got in ours], "beside an idle one",
                     [got["cold"]["count"] / got["seconds"] for got in idle])
    longest, idle_longest = ([max(got[part]["max_ns"] for part in ("hot", "cold")) / 1e6 for got in side] for side in (ours, idle))
    bench.report.add(f"neighbour.{name}.longest", "ms", [max(longest)], goal=100, better="lower", each_round_ms=longest, idle_ms=idle_longest)


def compare(bench, victim, neighbour, prefix):
    slots = {name: {"attack": [], "idle": []} for name in ATTACKS}
    facts = {name: {"attack": {}, "idle": {}} for name in ATTACKS}
    for _ in range(bench.plan.neighbour_rounds):
        for name in ATTACKS:
            for side, doing in (("idle", None), ("attack", name)):
                slots[name][side].append(slot(victim, neighbour, doing, facts[name][side]))
    for name in ATTACKS:
        report(bench, prefix + name, slots[name], {"while": facts[name]["attack"], "while_idle": facts[name]["idle"]})


def neighbour(bench):
    """A guest beside a neighbour of another user who does what hurts, each thing for itself and all together."""
    with contextlib.ExitStack() as stack:
        victim = Victim(bench, stack)
        for low in (False, True):
            with contextlib.ExitStack() as inner:
                compare(bench, victim, Neighbour(bench, inner, victim.tierfs, low), "low." if low else "")
