"""Resident memory: what tierfs must not cost while memory is hot."""
import contextlib
import os
import time

from .programs import Load, Tierfs

GIB = 1 << 30
MIB = 1 << 20


def race(load, names, op, seconds, rounds):
    """Random accesses on several mappings of one process, in turns. Rates by name."""
    rates = {name: [] for name in names}
    for turn in range(-1, rounds):
        for name in names:
            rate = load.do("access", name, op, seconds, "even", 1, turn + 2)["rate"]
            if turn >= 0: # the first is to get warm
                rates[name].append(rate / 1e6)
    return rates


def resident(bench):
    """Random 8-byte accesses over resident memory."""
    size = bench.plan.resident
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, 2 * size))
        shm = stack.enter_context(bench.host.shm_file())
        load = stack.enter_context(Load(bench.host, attached=True))
        load.do("map", "tierfs", tierfs.path("ram"), size)
        load.do("map", "shm", shm, size)
        for name in ("tierfs", "shm"):
            load.do("touch", name, 0, size, "sequential")
        for op in ("read", "write", "rmw"):
            rates = race(load, ("tierfs", "shm"), op, bench.plan.slice_s, bench.plan.slices)
            bench.report.add(f"resident.{op}", "Mop/s", rates["tierfs"], "/dev/shm", rates["shm"], goal=0.98,
                             size_bytes=size, dram_bytes=2 * size, min_idle_s=0.1)


def near_dram(size):
    """So much more than the file that nothing has to be demoted (a sixteenth of the budget is kept free for faults), and so little
    that the scanner is at work."""
    return size * 18 // 16


def make_sparse(path, size):
    with open(path, "wb") as file:
        os.truncate(file.fileno(), size)


def scanned(bench):
    """The same while the scanner runs, since the budget is near. What is lost to it is also counted: the faults on pages that a scan
    unmapped, at the price of such a fault. The scanner does not rest in the peer's slots, so that the rate shows more than its share."""
    size = bench.plan.scanned
    for min_idle in bench.plan.scan_min_idle:
        with contextlib.ExitStack() as stack:
            tierfs = stack.enter_context(Tierfs(bench.host, near_dram(size), min_idle=min_idle))
            shm = stack.enter_context(bench.host.shm_file())
            load = stack.enter_context(Load(bench.host, attached=True))
            for name, path in (("tierfs", tierfs.path("ram")), ("shm", shm)):
                make_sparse(path, 8 * size) # a budget that cannot be exceeded needs no scans
                load.do("map", name, path, size)
                load.do("touch", name, 0, size, "sequential")
            scan_rounds(bench, tierfs, load, size, min_idle)


def scan_rounds(bench, tierfs, load, size, min_idle):
    refault_ns = load.do("refault", "shm")["ns"]
    load.do("access", "tierfs", "write", 1, "even", 1, 1)
    rates, minor = {"tierfs": [], "shm": []}, 0
    scans, cost = tierfs.stat()["scans"], tierfs.cost()
    for turn in range(bench.plan.scan_rounds):
        for name, list_ in rates.items():
            got = load.do("access", name, "write", bench.plan.scan_s, "even", 1, 100 + turn)
            list_.append(got["rate"] / 1e6)
            minor += got["minor"] if name == "tierfs" else 0
    cost, scans = tierfs.cost(cost), tierfs.stat()["scans"] - scans
    facts = {"size_bytes": size, "dram_bytes": near_dram(size), "min_idle_s": min_idle, "scans": scans, "refault_ns": refault_ns,
             "minor_faults": minor, "seconds": cost["seconds"], "daemon_cores": cost["cpu_s"] / cost["seconds"],
             "resident_bytes": tierfs.stat("ram")["resident_bytes"]}
    name = f"scanned.idle{min_idle:g}"
    bench.report.add(f"{name}.write", "Mop/s", rates["tierfs"], "/dev/shm", rates["shm"], goal=0.98, **facts)
    bench.report.add(f"{name}.guest_time", "%", [100 * minor * refault_ns / 1e9 / cost["seconds"]], goal=1, better="lower", **facts)


def plain(bench):
    """A hot plain mapping: the kernel writes its dirty pages back again and again, which must neither slow the writer nor wear the disk.
    The slots are longer together than the kernel's dirty_expire (30 s)."""
    size = bench.plan.plain
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, 4 * size, map="plain"))
        shm = stack.enter_context(bench.host.shm_file())
        load = stack.enter_context(Load(bench.host))
        for name, path in (("tierfs", tierfs.path("ram")), ("shm", shm)):
            load.do("map", name, path, size)
            load.do("touch", name, 0, size, "sequential")
        assert tierfs.stat("ram")["mapping"] == "plain"
        rates, cost = {"tierfs": [], "shm": []}, tierfs.cost()
        for turn in range(bench.plan.plain_rounds):
            for name, list_ in rates.items():
                list_.append(load.do("access", name, "write", bench.plan.plain_s, "even", 1, 200 + turn)["rate"] / 1e6)
        cost = tierfs.cost(cost)
        facts = {"size_bytes": size, "seconds": cost["seconds"], "daemon_cores": cost["cpu_s"] / cost["seconds"]}
        bench.report.add("plain.write", "Mop/s", rates["tierfs"], "/dev/shm", rates["shm"], goal=0.5, **facts)
        # The writer worked half of the time.
        bench.report.add("plain.pool_writes", "MiB/s", [2 * cost["disk_write_bytes"] / MIB / cost["seconds"]], goal=20, better="lower",
                         **facts)


def huge(bench):
    """Read-modify-write with huge pages in the arena."""
    size = bench.plan.huge
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, 2 * size))
        shm = stack.enter_context(bench.host.shm_file())
        tmpfs = stack.enter_context(bench.host.tmpfs("huge=advise,size=90%"))
        load = stack.enter_context(Load(bench.host, attached=True))
        load.do("map", "tierfs", tierfs.path("ram"), size, "huge")
        load.do("map", "shm", shm, size)
        load.do("map", "advise", tmpfs + "/ram", size, "huge")
        for name in ("tierfs", "shm", "advise"):
            load.do("touch", name, 0, size, "sequential")
        rates = race(load, ("tierfs", "shm", "advise"), "rmw", bench.plan.slice_s, bench.plan.slices)
        facts = {"size_bytes": size, "min_idle_s": 0.1}
        bench.report.add("huge.rmw", "Mop/s", rates["tierfs"], "/dev/shm", rates["shm"], goal=1.4, **facts)
        bench.report.add("huge.rmw", "Mop/s", rates["tierfs"], "tmpfs huge=advise", rates["advise"], goal=0.98, **facts)


def touch(bench):
    """First touch of fresh memory, page by page in order: with a budget that is far, and with one that is tight but not used yet."""
    size = bench.plan.touch
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(Tierfs(bench.host, 8 * size))
        tight = stack.enter_context(Tierfs(bench.host, 2 * size))
        load = stack.enter_context(Load(bench.host, attached=True))
        shm = f"/dev/shm/{stack.enter_context(bench.host.shm_file())[9:]}"
        places = {"far": (far.path("ram"), size), "tight": (tight.path("ram"), 8 * size), "shm": (shm, size)}
        for order in bench.plan.touch_orders:
            rates = {name: [] for name in places}
            for turn in range(-1, bench.plan.rounds):
                for name, (path, file_size) in places.items():
                    load.do("map", name, path, file_size)
                    got = load.do("touch", name, 0, size, order)
                    load.do("unmap", name, "unlink")
                    if turn >= 0:
                        rates[name].append(size / MIB / got["seconds"])
                time.sleep(0.1)
            facts = {"touched_bytes": size, "order": order}
            goals = {"far": 0.9, "tight": 0.5} if order == "sequential" else {"far": None, "tight": None}
            for name in ("far", "tight"):
                bench.report.add(f"touch.{order}.{name}", "MiB/s", rates[name], "/dev/shm", rates["shm"], goal=goals[name],
                                 file_bytes=places[name][1], dram_bytes=(far if name == "far" else tight).options["dram"], **facts)
