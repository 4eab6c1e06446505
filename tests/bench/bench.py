#!/usr/bin/env python3
"""tierfs beside what it is measured against, in one run and in turns. See docs/performance.md."""
import argparse
import contextlib
import fcntl
import os
import platform
import sys
import time
import traceback

from suite import cold, limits, memory, move, neighbour, services, shares, store
from suite.host import Host, Skip
from suite.report import Report

GIB = 1 << 30
MIB = 1 << 20


UMAP_HELP = "UMAP_DIR in the environment: LLNL's umap, installed there, is a peer of fault, sequential, zipf and sort; else it is skipped."


class Plan:
    """Sizes and lengths: quick, unless something else is said."""

    resident, huge, touch = GIB, 2 * GIB, 256 * MIB
    slice_s, slices = 0.05, 21
    scanned, scan_s, scan_rounds, scan_min_idle = 128 * MIB, 1, 9, (0.1,)
    touch_orders = ("sequential",)
    plain, plain_s, plain_rounds = 256 * MIB, 5, 5
    rounds, mix_rounds = 3, 3 # the second of loads that thrash for seconds each
    ratio = 3
    fault, fault_count = 256 * MIB, 2000
    all_peers = False
    scan = 192 * MIB
    zipf, warm_s, slot_s = 512 * MIB, 1.5, 1.6
    zipf_runs = (("", 3, ((25, ("scattered", "clustered"), (1,)),)), ("warm", 3, ((25, ("scattered",), (1,)),)))
    idle_slot_s = 3
    jump_s = 3
    sort, sort_rounds = 128 * MIB, 1
    demote, direct, direct_write, populated = 192 * MIB, 384 * MIB, 128 * MIB, 2 * GIB
    many = 256 * MIB
    memcached, service_s = 512 * MIB, 2
    guest_mib, guest_s, guest_rounds = 256, 4, 1
    move, moves, move_rest_s, move_minute_s, move_patience_s = 512, 4, 3, 15, 60 # the guest in MiB
    shares, shares_s, shares_more_s = 192 * MIB, 10, 3
    main_s, main_rounds = 5, 4
    limits, limits_s, limits_rounds, limits_faults = 192 * MIB, 10, 3, 4000
    victim_hot, victim_cold, neighbour = 64 * MIB, 512 * MIB, 512 * MIB
    neighbour_rounds, neighbour_s, neighbour_settle_s = 2, 1.5, 0.5


class FullPlan(Plan):
    slice_s, slices = 0.1, 41
    scanned, scan_s, scan_rounds, scan_min_idle = GIB, 4, 7, (0.1, 30)
    touch, touch_orders = GIB, ("sequential", "random")
    plain_s, plain_rounds = 6, 7
    rounds = 5
    fault, fault_count = 2 * GIB, 12000
    all_peers = True
    scan = 512 * MIB
    zipf, warm_s, slot_s = GIB, 5, 3
    zipf_runs = (
        ("", 3, tuple((percent, ("scattered", "clustered"), (1, 2) if percent == 25 else (1,)) for percent in (100, 75, 50, 25))),
        ("", 1, ((25, ("scattered",), (1,)),)),
        ("", 8, ((25, ("scattered",), (1,)),)),
        ("4K", 3, ((25, ("scattered",), (1,)),)),
        *(("warm", 3, ((percent, ("scattered",), (1,)),)) for percent in (75, 50, 25)),
    )
    idle_slot_s = 10
    jump_s = 5
    sort, sort_rounds = 384 * MIB, 2
    demote, direct, direct_write, populated = GIB, GIB, GIB, 16 * GIB
    many = 512 * MIB
    memcached, service_s = 2 * GIB, 8
    guest_mib, guest_s, guest_rounds = 512, 15, 2
    move, moves, move_rest_s, move_minute_s, move_patience_s = 1024, 10, 5, 60, 300
    neighbour_rounds, neighbour_s = 3, 2.5


class TinyPlan(Plan):
    """To try the suite itself: seconds, and figures that say nothing."""

    resident, huge, touch = 64 * MIB, 64 * MIB, 32 * MIB
    slices, scan_s, scan_rounds, rounds = 3, 1, 3, 2
    fault, fault_count = 64 * MIB, 500
    scan = 32 * MIB
    plain, plain_s, plain_rounds = 32 * MIB, 1, 2
    zipf, warm_s, slot_s = 192 * MIB, 0.5, 0.5
    jump_s = 1
    demote, direct, direct_write, populated = 64 * MIB, 64 * MIB, 64 * MIB, 128 * MIB
    many = 64 * MIB
    memcached, service_s = 320 * MIB, 1
    shares, shares_s, shares_more_s = 32 * MIB, 1, 1
    main_s, main_rounds = 0.5, 1
    limits, limits_s, limits_rounds, limits_faults = 32 * MIB, 1, 1, 500
    victim_hot, victim_cold, neighbour = 16 * MIB, 64 * MIB, 64 * MIB
    neighbour_rounds, neighbour_s, neighbour_settle_s = 1, 0.3, 0.1


PLANS = {"quick": Plan, "full": FullPlan, "tiny": TinyPlan}
QUICK_CASES = {
    "resident": memory.resident, "scanned": memory.scanned, "huge": memory.huge, "touch": memory.touch,
    "fault": cold.fault, "sequential": cold.sequential, "zipf": cold.zipf, "zswap_fault": cold.zswap_fault,
    "demotion": store.demotion, "direct_read": store.direct_read, "direct_write": store.direct_write,
    "daemon_memory": store.daemon_memory, "many_files": store.many_files,
}
FULL_CASES = {
    **QUICK_CASES, "zswap": cold.zswap, "zipf_idle": cold.zipf_idle, "moving": cold.moving, "sort": cold.sort,
    "memcached": services.memcached, "guest": services.guest, "plain": memory.plain,
    "move": move.move, "move_after": move.move_after, "shares": shares.shares, "neighbour": neighbour.neighbour, "limits": limits.limits,
}


class Bench:
    def __init__(self, host, plan, report, profile):
        self.host, self.plan, self.report = host, plan, report
        self.profile = profile
        self.budget_points = {}
        self.umap_pages = None # not known yet

    def profile_path(self, name):
        return os.path.join(self.report.dir, f"perf-{name}.txt") if self.profile else None

    def run(self, name, case):
        print(f"{name}: {(case.__doc__ or '').split('.')[0].strip()}", flush=True)
        start = time.monotonic()
        try:
            case(self)
        except Skip as reason:
            self.report.note(name, "skipped", str(reason))
        except Exception as error: # the others can still tell something
            traceback.print_exc()
            self.report.note(name, "FAILED", str(error).splitlines()[0])
        print(f"  ({time.monotonic() - start:.0f} s)", flush=True)

    def finish(self):
        for (ratio, label), points in self.budget_points.items():
            if len(points) > 1:
                self.report.plot(f"budget-r{ratio}", f"Zipfian reads and writes, data {ratio}:1", "budget, % of the memory",
                                 "thousand accesses/s", "lines", label, sorted(points))
        self.report.close()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, epilog=UMAP_HELP)
    parser.add_argument("--plan", choices=PLANS, default="quick")
    parser.add_argument("--build", required=True, help="build directory")
    parser.add_argument("--out", required=True, help="directory for results.jsonl, table.txt and plots")
    parser.add_argument("--dir", default="/var/tmp", help="on the disk that pools, swap files and files of the peers shall be on")
    parser.add_argument("--options", default="", help="mount options for every tierfs, as level=1,block=4K, before those of the case")
    parser.add_argument("--profile", action="store_true", help="perf record of the daemon, a text for each case, in --out")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("case", nargs="*", help="only these")
    return parser.parse_args()


def main():
    args = parse()
    cases = FULL_CASES if args.plan == "full" or args.case else QUICK_CASES
    if args.list:
        for name, case in FULL_CASES.items():
            print(f"{name}: {(case.__doc__ or '').split('.')[0].strip()}")
        print(UMAP_HELP)
        return 0
    unknown = [name for name in args.case if name not in cases]
    if unknown:
        print(f"no case {unknown[0]}; there are {', '.join(cases)}", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print("benchmarks: need root (mounts, swap, cgroups)", file=sys.stderr)
        return 1
    with open("/run/lock/tierfs-bench.lock", "w", encoding="utf-8") as lock, contextlib.ExitStack() as stack:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another benchmark runs: waiting for its end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        start = time.monotonic()
        host = Host(args.dir, os.path.abspath(args.build), dict(word.split("=") for word in args.options.split(",") if word))
        stack.callback(host.close)
        report = Report(args.out, {"plan": args.plan, "kernel": platform.release(), "cpus": os.cpu_count()})
        bench = Bench(host, PLANS[args.plan](), report, args.profile)
        stack.callback(bench.finish)
        load = os.getloadavg()[0]
        if load > 1:
            print(f"note: the machine is busy (load {load:.1f}); ratios are less steady", flush=True)
        for name in args.case or cases:
            bench.run(name, cases[name])
        print(f"{time.monotonic() - start:.0f} s in all")
    return 1 if any(kind == "FAILED" for _, kind, _ in report.notes) else 0


if __name__ == "__main__":
    sys.exit(main())
