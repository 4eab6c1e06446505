"""The way to the disk and back without faults: demotion, direct reads and writes; and what the daemon keeps in memory."""
import contextlib
import json

from .cold import BLOCK, SEED, cold_tierfs
from .host import run
from .programs import Load, Tierfs

MIB = 1 << 20


def demotion(bench):
    """Plain bytes that are demoted for each second of the daemon's CPU time, against zstd alone over the same data."""
    size = bench.plan.demote
    with contextlib.ExitStack() as stack:
        tierfs, load = cold_tierfs(stack, bench, size)
        per_core, walls, peers = [], [], []
        for turn in range(bench.plan.rounds):
            load.do("stir", "m", BLOCK, turn) # else the stored copies would do
            with tierfs.profile(bench.profile_path("demotion")):
                cost = tierfs.demote("ram")
            zstd = json.loads(run(bench.host.program("zstd"), str(size), str(BLOCK), "1", str(bench.plan.ratio), str(SEED)))
            per_core.append(size / 1e6 / max(cost["cpu_s"], 0.01))
            walls.append(size / 1e6 / cost["seconds"])
            peers.append(size / 1e6 / zstd["cpu_s"])
        facts = {"size_bytes": size, "data_ratio": bench.plan.ratio, "block_bytes": BLOCK, "min_idle_s": 0.1, "zstd_ratio": zstd["ratio"],
                 "zstd_expand_mb_s": size / 1e6 / zstd["expand_cpu_s"]}
        bench.report.add("demotion.per_core", "MB/s", per_core, "zstd -1, one core", peers, goal=0.7, **facts)
        bench.report.add("demotion.wall", "MB/s", walls, "zstd -1, one core", peers, waits_for_idle=True, **facts)


def disk(bench, operation, path, size, depth, order):
    got = json.loads(run(bench.host.program("disk"), operation, path, str(size), "1M" if order == "sequential" else "64K",
                         str(depth), order, str(bench.plan.ratio), str(SEED)))
    if got["bad"]:
        raise RuntimeError(f"direct read of {path}: {got['bad']} wrong chunks")
    return got["mb_per_s"]


def direct_read(bench):
    """O_DIRECT reads of a cold file in logical bytes, against the same bytes, uncompressed, in a file of the disk's filesystem."""
    size = bench.plan.direct
    with contextlib.ExitStack() as stack:
        tierfs, load = cold_tierfs(stack, bench, size)
        file = stack.enter_context(bench.host.disk_file())
        load.do("map", "file", file, size)
        load.do("fill", "file", bench.plan.ratio, SEED)
        load.do("unmap", "file")
        tierfs.demote("ram")
        bench.host.drop_caches()
        for depth, order in ((1, "sequential"), (16, "sequential"), (32, "random")):
            ours, theirs = [], []
            before, cost = tierfs.stat("ram"), tierfs.cost()
            with tierfs.profile(bench.profile_path(f"direct-read-{order}-{depth}")):
                for _ in range(bench.plan.rounds):
                    ours.append(disk(bench, "read", tierfs.path("ram"), size, depth, order))
                    theirs.append(disk(bench, "read", file, size, depth, order))
            after, cost = tierfs.stat("ram"), tierfs.cost(cost)
            if after["promotions"] != before["promotions"] or after["resident_bytes"]:
                raise RuntimeError("a direct read promoted blocks")
            bench.report.add(f"direct_read.{order}.{depth}", "MB/s", ours, "ext4 O_DIRECT", theirs,
                             goal=1.0 if (depth, order) == (16, "sequential") else None, size_bytes=size, in_flight=depth,
                             data_ratio=bench.plan.ratio, chunk_bytes=MIB if order == "sequential" else 64 << 10, promotions=0,
                             daemon_cpu_s_per_gb=cost["cpu_s"] * 1e9 / size / bench.plan.rounds)


def direct_write(bench):
    """O_DIRECT writes of whole blocks, into the cold tier."""
    size = bench.plan.direct_write
    for depth, order in ((1, "sequential"), (16, "sequential")):
        with contextlib.ExitStack() as stack:
            tierfs = stack.enter_context(Tierfs(bench.host, 64 * MIB))
            file = stack.enter_context(bench.host.disk_file())
            ours, theirs = [], []
            cost = tierfs.cost()
            with tierfs.profile(bench.profile_path(f"direct-write-{depth}")):
                for _ in range(bench.plan.rounds):
                    ours.append(disk(bench, "write", tierfs.path("ram"), size, depth, order))
                    theirs.append(disk(bench, "write", file, size, depth, order))
            cost = tierfs.cost(cost)
            bench.report.add(f"direct_write.{order}.{depth}", "MB/s", ours, "ext4 O_DIRECT", theirs, size_bytes=size, in_flight=depth,
                             data_ratio=bench.plan.ratio, chunk_bytes=MIB,
                             daemon_cpu_s_per_gb=cost["cpu_s"] * 1e9 / size / bench.plan.rounds)


def daemon_memory(bench):
    """What the daemon keeps besides blocks when RAM files are fully populated, most of it cold."""
    size = bench.plan.populated
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, size // 8))
        load = stack.enter_context(Load(bench.host, attached=True))
        empty = tierfs.anonymous_bytes()
        for i in range(4):
            load.do("map", f"m{i}", tierfs.path(f"ram{i}"), size // 4)
            load.do("fill", f"m{i}", bench.plan.ratio, SEED + i)
        got, stat = tierfs.anonymous_bytes(), tierfs.stat()
        limit = size * 0.005 + 64 * MIB
        bench.report.add("daemon_memory", "MiB", [got / MIB], "0.5 % + 64 MiB", [limit / MIB], goal=1.0, better="lower", size_bytes=size,
                         dram_bytes=size // 8, files=4, empty_bytes=empty, metadata_bytes=stat["metadata_bytes"],
                         store_bytes=stat["store"]["memory_bytes"], scaled=size < 16 << 30)
        bench.report.add("daemon_memory.growth", "bytes/GiB", [(got - empty) * (1 << 30) / size], size_bytes=size)


def many_files(bench):
    """Scans and demotion with 1,000 RAM files, 2 TiB in sum, of which 50 have something in DRAM, against one file."""
    figures = {1: [], 1000: []}
    for _ in range(bench.plan.rounds):
        for files, got in figures.items():
            got.append(json.loads(run(bench.host.program("scan"), str(files), "50", str(bench.plan.many // MIB))))
    one, many = figures[1], figures[1000]
    facts = {"files": 1000, "busy_files": 50, "address_space_bytes": 2 << 40, "dram_bytes": bench.plan.many, "simulated_processes": True}
    bench.report.add("many_files.scan_share", "of a processor", [got["scan_share"] for got in many], goal=0.01, better="lower",
                     round_cpu_s=[got["round_cpu_s"] for got in many], one_file_round_cpu_s=[got["round_cpu_s"] for got in one],
                     idle_cpu_s=max(got["idle_cpu_s"] for got in many), **facts)
    bench.report.add("many_files.reclaim", "MB/s of a core", [got["reclaim_mb_cpu_s"] for got in many], "one file",
                     [got["reclaim_mb_cpu_s"] for got in one], goal=0.9, wall_mb_s=[got["reclaim_mb_s"] for got in many],
                     one_file_wall_mb_s=[got["reclaim_mb_s"] for got in one], **facts)
