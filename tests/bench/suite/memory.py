"""Resident memory: what tierfs must not cost while memory is hot."""
import contextlib
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


def scanned(bench):
    """The same while the scanner runs, since the budget is near. What is lost to it is the faults on pages that a scan unmapped; the
    difference of the rates, beside a mount whose budget is far, is shown too, but is mostly noise."""
    size = bench.plan.scanned
    for min_idle in bench.plan.scan_min_idle:
        with contextlib.ExitStack() as stack:
            near = stack.enter_context(Tierfs(bench.host, near_dram(size), min_idle=min_idle))
            far = stack.enter_context(Tierfs(bench.host, 16 * size, min_idle=min_idle))
            shm = stack.enter_context(bench.host.shm_file())
            load = stack.enter_context(Load(bench.host, attached=True))
            for name, path in (("near", near.path("ram")), ("far", far.path("ram")), ("shm", shm)):
                load.do("map", name, path, size)
                load.do("touch", name, 0, size, "sequential")
            scan_rounds(bench, near, load, size, min_idle)


def scan_rounds(bench, tierfs, load, size, min_idle):
    rates = {"near": [], "far": [], "shm": []}
    lost, scans, cpu, refault_ns = [], 0, 0, load.do("refault", "shm")["ns"]
    for turn in range(-1, bench.plan.scan_rounds):
        for name in rates:
            load.do("access", name, "write", 0.3, "even", 1, 50 + turn) # what scans have unmapped meanwhile comes back
            before, cost = tierfs.stat()["scans"], tierfs.cost()
            seconds = bench.plan.scan_s if name == "near" and turn >= 0 else 0.5
            got = load.do("access", name, "write", seconds, "even", 1, 100 + turn)
            if turn < 0:
                continue
            rates[name].append(got["rate"] / 1e6)
            if name == "near":
                lost.append(100 * got["minor"] / got["seconds"] * refault_ns / 1e9)
                scans += tierfs.stat()["scans"] - before
                cpu += tierfs.cost(cost)["cpu_s"]
    seconds = bench.plan.scan_s * bench.plan.scan_rounds
    facts = {"size_bytes": size, "dram_bytes": near_dram(size), "min_idle_s": min_idle, "scans_per_s": scans / seconds,
             "refault_ns": refault_ns, "daemon_cores": cpu / seconds, "resident_bytes": tierfs.stat("ram")["resident_bytes"]}
    name = f"scanned.idle{min_idle:g}"
    bench.report.add(f"{name}.write", "Mop/s", rates["near"], "/dev/shm", rates["shm"], goal=0.98, **facts)
    bench.report.add(f"{name}.write", "Mop/s", rates["near"], "tierfs, budget far", rates["far"], **facts)
    bench.report.add(f"{name}.guest_time", "%", lost, goal=1, better="lower", **facts)


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
