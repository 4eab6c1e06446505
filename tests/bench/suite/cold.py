"""Memory that does not fit: faults, and loads under a budget, against swap, zswap, a mapped file of ext4, and umap."""
import contextlib
import statistics
import time

from . import umap
from .host import PAGE_CLUSTER, PROGRAM_BYTES, read_text
from .programs import Load, Tierfs

MIB = 1 << 20
BLOCK = 16 << 10
SEED = 11


class Peer:
    """A load in a memory cgroup of its own: anonymous memory that is swapped, or a file of the disk's filesystem."""

    def __init__(self, stack, host, size, dram, kind="swap"):
        self.cgroup = stack.enter_context(host.cgroup(size * 2 + PROGRAM_BYTES))
        if kind != "ext4":
            stack.enter_context(host.swap(size + size // 4 + 64 * MIB))
        self.load = stack.enter_context(Load(host, cgroup=self.cgroup))
        path = stack.enter_context(host.disk_file()) if kind == "ext4" else "anon"
        self.dram = dram
        self.load.do("map", "m", path, size, *(["random"] if kind == "ext4" else []))

    def press(self, dram=None):
        self.cgroup.limit((dram or self.dram) + PROGRAM_BYTES)

    def make_cold(self):
        for _ in range(6):
            self.load.do("pageout", "m")
            self.cgroup.reclaim()
            left = self.load.do("cached", "m")["bytes"]
            if left < 2 * MIB:
                return
            time.sleep(0.2)
        raise RuntimeError(f"{left} bytes of the peer stay in DRAM")


def cold_tierfs(stack, bench, size, **options):
    tierfs = stack.enter_context(Tierfs(bench.host, 2 * size, **options))
    load = stack.enter_context(Load(bench.host, attached=True))
    load.do("map", "m", tierfs.path("ram"), size)
    load.do("fill", "m", bench.plan.ratio, SEED)
    return tierfs, load


def latency_rounds(bench, loads, threads, first, count):
    """Rounds of random cold faults: each load touches the same places, none twice. Answers by load, and where the next may begin."""
    answers = {name: [] for name in loads}
    for _ in range(bench.plan.rounds):
        for name, load in loads.items():
            answers[name].append(load.do("latency", "m", "random", threads, first, count, BLOCK, SEED))
        first += count
    return answers, first


def merge(histograms):
    total = {}
    for histogram in histograms:
        for ns, count in histogram:
            total[ns] = total.get(ns, 0) + count
    return sorted(total.items())


def quantile(histogram, share):
    """In nanoseconds."""
    left = share * sum(count for _, count in histogram)
    for ns, count in histogram:
        left -= count
        if left <= 0:
            return ns
    return histogram[-1][0]


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1}
FAULT_GOALS = {"swap": {"p50": 1.0, "p99": 0.7}, "umap": {"p50": 1.0, "p99": 1.0}}


def report_faults(bench, what, threads, ours, peer, theirs, goals, **facts):
    all_ours, all_theirs = merge(answer["hist"] for answer in ours), merge(answer["hist"] for answer in theirs)
    for key, share in SHARES.items():
        bench.report.add(f"{what}.{threads}.{key}", "us", [answer[key + "_ns"] / 1000 for answer in ours], peer,
                         [answer[key + "_ns"] / 1000 for answer in theirs],
                         pooled=(quantile(all_ours, share) / 1000, quantile(all_theirs, share) / 1000),
                         goal=goals.get(key) if threads == 1 else None, better="lower", threads=threads, **facts)
    plot = what.replace(".", "-") + f"-{threads}"
    title = f"Random cold fault, {threads} thread{'s' if threads > 1 else ''}"
    for label, histogram in (("tierfs", all_ours), (peer, all_theirs)):
        bench.report.plot_latency(plot, title, label, histogram)


def stages_p50_ns(tierfs):
    """Where the daemon's part of a fault went, since the mount."""
    return {stage: figures["p50_ns"] for stage, figures in tierfs.stat().get("fault_stages", {}).items() if figures["count"]}


def fault(bench):
    """One random page of every cold block that is touched: swap (page-cluster 0) has the same data on the same disk."""
    size, count = bench.plan.fault, bench.plan.fault_count
    with contextlib.ExitStack() as stack:
        tierfs, load = cold_tierfs(stack, bench, size)
        loads = {"tierfs": load}
        for name, kind in (("swap page-cluster=0", "swap"), ("ext4 mmap", "ext4")):
            if kind != "swap" and not bench.plan.all_peers:
                continue
            peer = Peer(stack, bench.host, size, size, kind)
            peer.load.do("fill", "m", bench.plan.ratio, SEED)
            peer.make_cold()
            loads[name] = peer.load
        loads.update(umap.loads(stack, bench, size, 2 * size, SEED))
        tierfs.demote("ram")
        bench.host.drop_caches()
        stack.enter_context(bench.host.setting(PAGE_CLUSTER, 0))
        first = 0
        for threads in (1, 4):
            before, io = tierfs.stat("ram"), tierfs.cost()
            with tierfs.profile(bench.profile_path(f"fault-{threads}")):
                answers, first = latency_rounds(bench, loads, threads, first, count)
            after, io = tierfs.stat("ram"), tierfs.cost(io)
            faults = max(1, after["promotions"] - before["promotions"])
            facts = {"size_bytes": size, "faults_per_round": count, "data_ratio": bench.plan.ratio, "block_bytes": BLOCK,
                     "daemon_us_per_fault": 1e6 * io["cpu_s"] / faults, "daemon_p50_ns": after["fault_p50_ns"],
                     "disk_bytes_per_fault": io["disk_read_bytes"] / faults, "promotions": faults,
                     "fault_stages_p50_ns": stages_p50_ns(tierfs)}
            for peer in list(loads)[1:]:
                kind = peer.split()[0]
                what = "fault.random" + {"swap": "", "ext4": ".ext4"}.get(kind, "." + peer.replace(" ", ""))
                report_faults(bench, what, threads, answers["tierfs"], peer, answers[peer], FAULT_GOALS.get(kind, {}), **facts)


def sequential_peer(stack, bench, kind, size):
    if kind not in ("swap", "ext4"):
        return umap.Umap(stack, bench, size, 2 * size, kind, SEED)
    peer = Peer(stack, bench.host, size, size, kind)
    if kind == "ext4": # as a program would have it
        peer.load.do("unmap", "m")
        peer.load.do("map", "m", bench.host.dir + "/" + f"file{bench.host.serial}", size)
    peer.load.do("fill", "m", bench.plan.ratio, SEED)
    return peer


def sequential(bench):
    """Every page of cold memory is read in order."""
    size = bench.plan.scan
    peers = [("swap", f"swap page-cluster={read_text(PAGE_CLUSTER)}", 2.0), ("ext4", "ext4 mmap", 1.0)]
    for kind, name, goal in peers + [(page_bytes, umap.label(page_bytes), 1.0) for page_bytes in umap.page_sizes(bench)]:
        rates = {"tierfs": [], "peer": []}
        with contextlib.ExitStack() as stack:
            tierfs, load = cold_tierfs(stack, bench, size)
            peer = sequential_peer(stack, bench, kind, size)
            cost = {"cpu_s": 0, "disk_read_bytes": 0}
            for _ in range(bench.plan.rounds):
                peer.make_cold()
                tierfs.demote("ram")
                bench.host.drop_caches()
                before = tierfs.cost()
                with tierfs.profile(bench.profile_path("sequential")):
                    ours = load.do("latency", "m", "sequential", 1, 0, size // 4096, 4096, SEED)
                used = tierfs.cost(before)
                cost = {key: cost[key] + used[key] for key in cost}
                theirs = peer.load.do("latency", "m", "sequential", 1, 0, size // 4096, 4096, SEED)
                rates["tierfs"].append(size / MIB / ours["seconds"])
                rates["peer"].append(size / MIB / theirs["seconds"])
        bench.report.add("sequential", "MiB/s", rates["tierfs"], name, rates["peer"], goal=goal, size_bytes=size,
                         data_ratio=bench.plan.ratio, threads=1, daemon_cpu_s=cost["cpu_s"] / bench.plan.rounds,
                         daemon_disk_bytes=cost["disk_read_bytes"] / bench.plan.rounds)


def in_turns(bench, tierfs, loads, seconds, choice, threads):
    """The same accesses on each load, in turns; the start of a slot, while the other one's work leaves the machine, does not count."""
    rates, faults = {name: [] for name in loads}, {name: [] for name in loads}
    used = {"cpu_s": 0, "disk_read_bytes": 0, "disk_write_bytes": 0, "seconds": 0}
    for turn in range(bench.plan.mix_rounds):
        for name, load in loads.items():
            load.do("access", "m", "mix", seconds / 4, choice, threads, 1000 + turn)
            before, promotions = tierfs.cost(), tierfs.stat()["promotions"]
            got = load.do("access", "m", "mix", seconds, choice, threads, 2000 + turn)
            rates[name].append(got["rate"] / 1e3)
            if name == "tierfs":
                spent = tierfs.cost(before)
                used = {key: used[key] + spent[key] for key in used}
                got["major"] = tierfs.stat()["promotions"] - promotions
            faults[name].append(got["minor" if name.startswith("umap") else "major"] / got["ops"])
    facts = {"daemon_cores": used["cpu_s"] / used["seconds"], "disk_read_mb_s": used["disk_read_bytes"] / 1e6 / used["seconds"],
             "disk_write_mb_s": used["disk_write_bytes"] / 1e6 / used["seconds"], "min_idle_s": tierfs.options["min_idle"],
             **{("" if name == "tierfs" else name.replace(" ", "_") + "_") + "faults_per_access": sum(list_) / len(list_)
                for name, list_ in faults.items()}}
    return rates, facts


def pressed_pair(stack, bench, size, dram, ratio, kind="swap", **options):
    """tierfs and a peer, both filled, both with so much DRAM."""
    tierfs = stack.enter_context(Tierfs(bench.host, dram, **options))
    ours = stack.enter_context(Load(bench.host, attached=True))
    ours.do("map", "m", tierfs.path("ram"), size)
    peer = Peer(stack, bench.host, size, dram, kind)
    peer.press()
    for load in (ours, peer.load):
        load.do("fill", "m", ratio, SEED)
    return tierfs, ours, peer


# Kinds of mounts: as it comes; with a part of the budget for compressed blocks; with the smallest blocks.
KINDS = {"": lambda dram: {}, "warm": lambda dram: {"warm": dram * 3 // 8}, "4K": lambda dram: {"block": "4K"}}


def zipf(bench):
    """Skewed reads and writes, 3 to 1, of pages over more memory than the budget. `scattered`: hot pages lie anywhere; `clustered`:
    64 KiB of neighbours are alike hot."""
    size = bench.plan.zipf
    for kind, ratio, runs in bench.plan.zipf_runs:
        dram = size * runs[0][0] // 100
        options = KINDS[kind](dram)
        with contextlib.ExitStack() as stack:
            tierfs, ours, peer = pressed_pair(stack, bench, size, dram, ratio, **options)
            for percent, places, threads in runs:
                tierfs.set("dram", size * percent // 100)
                peer.press(size * percent // 100)
                loads = {"tierfs": ours, "swap": peer.load}
                with contextlib.ExitStack() as umaps:
                    if percent == 25 and not kind and ratio == bench.plan.ratio:
                        loads.update(umap.loads(umaps, bench, size, size // 4, SEED))
                    for place in places:
                        for count in threads:
                            zipf_one(bench, tierfs, loads, kind, percent, ratio, place, count, options)


def zipf_one(bench, tierfs, loads, kind, percent, ratio, place, threads, options):
    choice = "zipf:0.99:" + {"scattered": "4K", "clustered": "64K"}[place]
    for load in loads.values():
        load.do("access", "m", "mix", bench.plan.warm_s, choice, threads, 1)
    before = tierfs.stat()
    name = f"zipf.{place}.{percent}" + (f".r{ratio}" if ratio != 3 else "") + (f".t{threads}" if threads > 1 else "")
    name += f".{kind}" if kind else ""
    with tierfs.profile(bench.profile_path(name)):
        rates, facts = in_turns(bench, tierfs, loads, bench.plan.slot_s, choice, threads)
    after = tierfs.stat()
    facts.update({key: after[key] - before[key] for key in ("promotions", "demotions", "demotions_aborted", "waited_faults", "scans")})
    goal = percent == 25 and ratio == 3 and threads == 1 and kind != "4K"
    for peer in list(loads)[1:]:
        bench.report.add(name, "kop/s", rates["tierfs"], peer, rates[peer], goal=(1.5 if peer == "swap" else 1.0) if goal else None,
                         size_bytes=bench.plan.zipf, dram_bytes=bench.plan.zipf * percent // 100, data_ratio=ratio, threads=threads,
                         write_share=0.25, theta=0.99, anonymous_bytes=tierfs.anonymous_bytes(), options=options, **facts)
    if place == "scattered" and threads == 1 and kind != "4K":
        for label in loads:
            if kind and label != "tierfs":
                continue
            curve = f"{label} {kind}".strip()
            bench.budget_points.setdefault((ratio, curve), []).append((percent, statistics.median(rates[label])))


def zipf_idle(bench):
    """Once with the min_idle of hosts that do not show pins: a block may not go before 30 s, so that a load that thrashes waits."""
    size = bench.plan.zipf
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, size // 4, min_idle=1))
        ours = stack.enter_context(Load(bench.host, attached=True))
        ours.do("map", "m", tierfs.path("ram"), size)
        peer = Peer(stack, bench.host, size, size // 4)
        peer.press()
        for load in (ours, peer.load):
            load.do("fill", "m", 3, SEED)
        tierfs.set("min_idle", 30)
        tierfs.options["min_idle"] = 30
        loads = {"tierfs": ours, "swap": peer.load}
        rates, facts = in_turns(bench, tierfs, loads, bench.plan.idle_slot_s, "zipf:0.99:4K", 1)
        bench.report.add("zipf.scattered.25.idle30", "kop/s", rates["tierfs"], "swap", rates["swap"], size_bytes=size,
                         dram_bytes=size // 4, data_ratio=3, **facts)


def warm_tierfs(stack, bench, dram, warm):
    """With DRAM for compressed blocks, if this build has that: else without, to know the distance."""
    try:
        return stack.enter_context(Tierfs(bench.host, dram, warm=warm)), True
    except RuntimeError as error:
        if "warm" not in str(error):
            raise
        bench.report.note("warm", "skipped", f"{error}; measured without it")
        return stack.enter_context(Tierfs(bench.host, dram)), False


def zswap(bench):
    """Against zswap, with compressed memory inside the same DRAM on both sides."""
    pool = bench.host.zswap_least_bytes()
    dram = pool * 2 + 4 * MIB # warm= must be less than half of it
    size = dram * 4 if bench.plan.all_peers else dram * 2
    with contextlib.ExitStack() as stack:
        compressor = stack.enter_context(bench.host.zswap(1))
        tierfs, warm = warm_tierfs(stack, bench, dram, pool)
        ours = stack.enter_context(Load(bench.host, attached=True))
        ours.do("map", "m", tierfs.path("ram"), size)
        peer = Peer(stack, bench.host, size, dram - pool)
        peer.press()
        for load in (ours, peer.load):
            load.do("fill", "m", bench.plan.ratio, SEED)
        loads = {"tierfs": ours, "zswap": peer.load}
        for load in loads.values():
            load.do("access", "m", "mix", bench.plan.warm_s, "zipf:0.99:4K", 1, 1)
        rates, facts = in_turns(bench, tierfs, loads, bench.plan.slot_s, "zipf:0.99:4K", 1)
        bench.report.add("zipf.scattered.warm", "kop/s", rates["tierfs"], f"zswap {compressor}", rates["zswap"],
                         goal=1.0 if warm else None, size_bytes=size, dram_bytes=dram, warm_bytes=pool if warm else 0,
                         peer_dram_bytes=dram - pool, peer_pool_bytes=pool, **facts)


def zswap_fault(bench):
    """Cold faults where the cold memory is all in compressed DRAM on both sides."""
    size = 128 * MIB
    count = min(bench.plan.fault_count, size // BLOCK // bench.plan.rounds)
    with contextlib.ExitStack() as stack:
        compressor = stack.enter_context(bench.host.zswap(20))
        tierfs, warm = warm_tierfs(stack, bench, 4 * size, size)
        load = stack.enter_context(Load(bench.host, attached=True))
        load.do("map", "m", tierfs.path("ram"), size)
        peer = Peer(stack, bench.host, size, size)
        for filled in (load, peer.load):
            filled.do("fill", "m", bench.plan.ratio, SEED)
        peer.make_cold()
        tierfs.demote("ram")
        stack.enter_context(bench.host.setting(PAGE_CLUSTER, 0))
        answers, _ = latency_rounds(bench, {"tierfs": load, "zswap": peer.load}, 1, 0, count)
        report_faults(bench, "fault.warm", 1, answers["tierfs"], f"zswap {compressor}", answers["zswap"], {"p50": 2.0} if warm else {},
                      size_bytes=size, warm_bytes=size if warm else 0, fault_stages_p50_ns=stages_p50_ns(tierfs))


def moving(bench):
    """A hot set of three quarters of the budget that jumps elsewhere; how fast does the rate come back?"""
    size, dram = bench.plan.zipf, bench.plan.zipf // 4
    choice, step_ms = f"moving:{dram * 3 // 4}:{int(bench.plan.jump_s * 1000)}", 200
    with contextlib.ExitStack() as stack:
        tierfs, ours, peer = pressed_pair(stack, bench, size, dram, 3)
        rates = {"tierfs": [], "swap": []}
        for turn in range(bench.plan.mix_rounds):
            for name, load in (("tierfs", ours), ("swap", peer.load)):
                got = load.do("access", "m", "mix", bench.plan.jump_s * 3, choice, 1, 3000 + turn, step_ms)
                rates[name].append(got["rate"] / 1e3)
                if turn == 0:
                    bench.report.plot("moving", f"Hot set that jumps every {bench.plan.jump_s:g} s", "seconds", "thousand accesses/s",
                                      "lines", name, [(i * step_ms / 1000, n / step_ms) for i, n in enumerate(got["intervals"])])
        bench.report.add("moving", "kop/s", rates["tierfs"], "swap", rates["swap"], size_bytes=size, dram_bytes=dram,
                         hot_bytes=dram * 3 // 4, jump_s=bench.plan.jump_s, min_idle_s=0.1, data_ratio=3)


def sort_peer(stack, bench, kind, size, dram):
    if kind not in ("swap", "ext4"):
        return umap.Umap(stack, bench, size, dram, kind, SEED)
    peer = Peer(stack, bench.host, size, dram, kind)
    peer.press()
    return peer


def sort(bench):
    """An array larger than the budget is sorted in memory."""
    size, dram = bench.plan.sort, bench.plan.sort // 2
    peers = [("swap", "swap", None)] + ([("ext4", "ext4 mmap", None)] if bench.plan.all_peers else [])
    for kind, name, goal in peers + [(page_bytes, umap.label(page_bytes), 1.0) for page_bytes in umap.page_sizes(bench)]:
        with contextlib.ExitStack() as stack:
            tierfs = stack.enter_context(Tierfs(bench.host, dram))
            ours = stack.enter_context(Load(bench.host, attached=True))
            ours.do("map", "m", tierfs.path("ram"), size)
            peer = sort_peer(stack, bench, kind, size, dram)
            seconds = {"tierfs": [], "peer": []}
            cost = tierfs.cost()
            for turn in range(bench.plan.sort_rounds):
                for side, load in (("tierfs", ours), ("peer", peer.load)):
                    got = load.do("sort", "m", 2, turn + 1)
                    seconds[side].append(got["fill_s"] + got["seconds"])
            cost = tierfs.cost(cost)
            bench.report.add("sort", "s", seconds["tierfs"], name, seconds["peer"], goal=goal, better="lower", size_bytes=size,
                             dram_bytes=dram, threads=2, min_idle_s=0.1, daemon_cpu_s=cost["cpu_s"] / bench.plan.sort_rounds)
