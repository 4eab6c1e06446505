"""A running guest moves from one mount to another, beside QEMU's own migration of the same guest from swap."""
import contextlib
import json
import math
import os
import statistics
import struct
import subprocess
import time

from .guests import QEMU_BYTES, Guest, boot_files
from .host import run, wait_until
from .programs import Tierfs

MIB = 1 << 20
STATES = ("hole", "cold", "resident", "passing")
WINDOW_PERCENT = 2 # of its memory that a guest whose hot memory wanders works on


class Place:
    """The guest, on one of two mounts."""

    def __init__(self, bench, stack, settings):
        plan = bench.plan
        self.host, self.stack, self.settings = bench.host, stack, settings
        self.size, self.dram = plan.move * MIB, plan.move * MIB * 9 // 32
        self.files = boot_files(bench.host, stack)
        self.mounts = [stack.enter_context(Tierfs(bench.host, self.dram, min_idle=0.2)) for _ in range(2)]
        self.at, self.old = 0, None
        self.guest = stack.enter_context(Guest(self.host, self.files, self.size, settings, self.path(), self.tierfs().tierctl))
        self.guest.wait("GUEST: pass", 300)
        self.settle()

    def tierfs(self, there=False):
        return self.mounts[self.at ^ there]

    def path(self, there=False):
        return self.tierfs(there).path("vm")

    def settle(self):
        """Until what is idle has become cold."""
        for _ in range(50):
            before = self.tierfs().stat("vm")["demotions"]
            time.sleep(1)
            if self.tierfs().stat("vm")["demotions"] == before:
                return

    def move(self):
        """Totals of tierctl migrate; the guest is at the other mount then."""
        target = self.stack.enter_context(Guest(self.host, self.files, self.size, "", self.path(True), self.tierfs().tierctl,
                                                incoming="defer"))
        self.guest.hang_up()
        totals = json.loads(run(self.tierfs().tierctl, "migrate", "--qmp", self.guest.qmp_path, "--target-qmp", target.qmp_path, "--uri",
                                "unix:" + self.host.path("devices"), "--via", f"{self.tierfs().tierctl} recv --answer --in-place {self.path(True)}",
                                self.path(), "--json"))
        self.guest.check()
        self.guest.process.kill()
        self.guest.process.wait()
        self.guest, self.at = target, self.at ^ 1
        return totals

    def export(self):
        """(scans, {block: (state, generation)}) of a hotness file."""
        path = self.host.path("ages")
        run(self.tierfs().tierctl, "hotness", "export", self.path(), path)
        with open(path, "rb") as file:
            data = file.read()
        block, _, records, scans = struct.unpack_from("<IQQQ", data, 12)
        ages = {}
        for i in range(records):
            offset, length, state, generation = struct.unpack_from("<QQBB", data, 2120 + 32 * i)
            for at in range(offset // block, (offset + length) // block):
                ages[at] = STATES[state], generation
        return scans, ages

    def hashes(self, there=False):
        """Of all blocks, as `tierctl stamp` has them."""
        data = subprocess.run([self.tierfs().tierctl, "stamp", self.path(there)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              check=True).stdout
        at, got = 8, []
        while at < len(data):
            kind, length = data[at], struct.unpack_from("<I", data, at + 4)[0]
            if kind == 7:
                got += struct.unpack_from(f"<{length // 8}Q", data, at + 32)
            at += 32 + length
        return got


def aged_otherwise(before, after):
    """Blocks that were cold before and after, and whose generation is not what the scans in between made of it."""
    scans, wrong = after[0] - before[0], 0
    for block, (state, generation) in before[1].items():
        now = after[1].get(block)
        if state == "cold" and now and now[0] == "cold" and now[1] != min(255, generation + scans):
            wrong += 1
    return wrong


def cold_part(bench, place):
    """The cold blocks alone, while the guest works: what it notices, and what changes where they come from."""
    moved, alone, promotions, wrong, seconds, sent = [], [], [], [], [], []
    rest = bench.plan.move_rest_s
    for turn in range(bench.plan.rounds):
        target = place.tierfs(True).path(f"cold{turn}")
        time.sleep(rest)
        before, stat, begin = place.export(), place.tierfs().stat("vm"), time.monotonic()
        with place.tierfs().profile(bench.profile_path("move-cold")):
            done = subprocess.run(["sh", "-c", f'"$0" send --cold --json "$1" 2>"$3" | "$0" recv "$2" >/dev/null', place.tierfs().tierctl, place.path(),
                                   target, place.host.path("sent")], check=True, stdin=subprocess.DEVNULL)
            end = time.monotonic()
        assert done.returncode == 0
        now, after = place.tierfs().stat("vm"), place.export()
        time.sleep(rest)
        guest = place.guest
        rates = guest.rate(begin - rest, begin), guest.rate(begin, end), guest.rate(end + 0.5, end + rest)
        os.unlink(target)
        seconds.append(end - begin)
        sent.append(stat["cold_bytes"] / MIB / (end - begin))
        promotions.append(now["promotions"] - stat["promotions"])
        wrong.append(aged_otherwise(before, after))
        if None not in rates:
            moved.append(rates[1] / 1e3)
            alone.append(statistics.mean((rates[0], rates[2])) / 1e3)
    facts = {"guest_bytes": place.size, "dram_bytes": place.dram, "accelerator": "tcg", "seconds": seconds}
    bench.report.add("move.cold.rate", "MiB/s", sent, **facts)
    bench.report.add("move.cold.guest", "kpages/s", moved, "undisturbed", alone, goal=0.95, **facts)
    bench.report.add("move.cold.promotions", "blocks", promotions, goal=0, better="lower", **facts)
    bench.report.add("move.cold.ages", "blocks of another age", wrong, goal=0, better="lower", **facts)


def moves(bench, place):
    """Back and forth."""
    stat, totals, changed = place.tierfs().stat("vm"), [], []
    content = stat["resident_bytes"] + stat["cold_bytes"]
    for _ in range(bench.plan.moves):
        if totals:
            there, here = place.hashes(True), place.hashes()
            changed.append(sum(a != b for a, b in zip(there, here)) * place.tierfs().stat("vm")["block_bytes"])
        totals.append(place.move())
        time.sleep(bench.plan.move_rest_s)
    place.guest.check()
    facts = {"guest_bytes": place.size, "dram_bytes": place.dram, "content_bytes": content, "cold_share": stat["cold_bytes"] / content,
             "accelerator": "tcg", "moves": totals}
    stood = [total["downtime_seconds"] * 1000 for total in totals]
    bench.report.add("move.downtime", "ms", stood, goal=300, better="lower", **facts)
    bench.report.add("move.downtime.longest", "ms", [max(stood)], goal=300, better="lower", **facts)
    bench.report.add("move.seconds", "s", [total["seconds"] for total in totals], **facts)
    bench.report.add("move.stream", "MiB", [totals[0]["stream_bytes"] / MIB], "memory", [content / MIB], goal=0.5, better="lower", **facts)
    if changed:
        bench.report.add("move.back.stream", "MiB", [total["stream_bytes"] / MIB for total in totals[1:]], "changed before",
                         [max(1, count) / MIB for count in changed], better="lower", **facts)


def promotions_in(place, seconds):
    before = place.tierfs().stat("vm")["promotions"]
    time.sleep(seconds)
    return place.tierfs().stat("vm")["promotions"] - before


def move(bench):
    """A guest with a quarter of its memory hot moves between two daemons, and the cold part of it alone."""
    with contextlib.ExitStack() as stack:
        place = Place(bench, stack, f"guest.mib={bench.plan.move * 3 // 4} guest.seconds=100000 guest.dwell=100000 guest.window=12 guest.tick=100")
        cold_part(bench, place)
        moves(bench, place)


def move_after(bench):
    """A guest whose hot memory wanders: what comes back after a move, against the same time before it; and QEMU's own migration from swap."""
    minute = bench.plan.move_minute_s
    # Between two passes over everything there is time for all of this: a pass would bring the whole memory back.
    dwell = math.ceil((2 * minute + 60) * WINDOW_PERCENT / 100)
    settings = f"guest.mib={bench.plan.move * 3 // 4} guest.seconds=100000 guest.dwell={dwell} guest.window={WINDOW_PERCENT} guest.tick=100"
    with contextlib.ExitStack() as stack:
        place = Place(bench, stack, settings)
        passes = place.guest.passes()
        before = promotions_in(place, minute)
        total = place.move()
        after = promotions_in(place, minute)
        place.guest.check()
        if place.guest.passes() or passes != 1:
            raise RuntimeError("the guest went over all of its memory meanwhile")
        bench.report.add("move.promotions_after", "blocks", [after], "not moved", [max(1, before)], goal=1.2, better="lower", seconds=minute,
                         guest_bytes=place.size, dram_bytes=place.dram, move=total)
    swap_peer(bench, settings, total, place)


def peak_bytes(cgroup):
    name = "memory.peak" if cgroup.v2 else "memory.max_usage_in_bytes"
    with open(os.path.join(cgroup.path, name), encoding="utf-8") as file:
        return int(file.read())


def swap_peer(bench, settings, total, place):
    """The same guest in anonymous memory, the same DRAM by a cgroup, and migrate over a Unix socket."""
    host, limit = bench.host, place.dram + QEMU_BYTES
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(host.cgroup(limit)) for _ in range(2)]
        stack.enter_context(host.swap(place.size * 3))
        files, socket = boot_files(host, stack), "unix:" + host.path("migration")
        source = stack.enter_context(Guest(host, files, place.size, settings, cgroup=groups[0]))
        source.wait("GUEST: pass", 600)
        time.sleep(bench.plan.move_rest_s)
        target = stack.enter_context(Guest(host, files, place.size, "", cgroup=groups[1], incoming=socket))
        wait_until(lambda: os.path.exists(socket.removeprefix("unix:")), 30, "the target's socket")
        faults = source.major_faults()
        source.qmp("migrate-set-parameters", **{"max-bandwidth": 4 << 30, "downtime-limit": 300})
        begin = time.monotonic()
        source.qmp("migrate", uri=socket)
        state = source.qmp("query-migrate")
        while state["status"] not in ("completed", "failed") and time.monotonic() < begin + bench.plan.move_patience_s:
            time.sleep(0.05)
            state = source.qmp("query-migrate")
        seconds, facts = time.monotonic() - begin, {"dram_bytes": place.dram, "limit_bytes": limit, "status": state["status"]}
        facts["source_major_faults"] = source.major_faults() - faults
        facts["peak_bytes"] = [peak_bytes(group) for group in groups]
        if state["status"] != "completed":
            bench.report.note("move.swap", "skipped", f"QEMU's own migration is {state['status']} after {seconds:.0f} s: {state.get('error-desc')}")
            return
        faults = target.major_faults()
        time.sleep(bench.plan.move_minute_s)
        facts["target_major_faults"] = target.major_faults() - faults
        try:
            target.check()
        except RuntimeError as error: # no tierfs was near that guest: it is the peer that lost a page
            bench.report.note("move.swap", "skipped", f"after QEMU's own migration from swap {error}")
            return
        bench.report.add("move.total", "s", [total["seconds"]], "QEMU from swap", [seconds], better="lower", **facts)
        bench.report.add("move.stood", "ms", [total["downtime_seconds"] * 1000], "QEMU from swap", [max(1, state.get("downtime", 0))],
                         better="lower", **facts)
        bench.report.add("move.bytes", "MiB", [total["stream_bytes"] / MIB], "QEMU from swap", [state["ram"]["transferred"] / MIB],
                         better="lower", **facts)
