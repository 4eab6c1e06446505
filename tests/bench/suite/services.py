"""Real programs: memcached with its items in a RAM file, and a QEMU guest."""
import contextlib
import json
import os
import shutil
import socket
import subprocess

from .cold import merge, quantile, SHARES
from .host import Skip, run, wait_until
from .programs import Tierfs

MIB = 1 << 20
ITEM_BYTES = 1100 # of memory, for a value of 1000 bytes
TABLE_BYTES = 48 << 20 # hash table and buffers, which grow while items come


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Memcached:
    def __init__(self, host, size, prefix=(), options=()):
        self.host, self.port = host, free_port()
        command = [*prefix, shutil.which("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", str(self.port), "-t", "2",
                   "-m", str(size // MIB), "-o", "hashpower=22,no_hashexpand", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        try:
            wait_until(self.answers, 30, "memcached")
        except BaseException:
            self.__exit__()
            raise
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"memcached ended with exit {self.process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def anonymous_bytes(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss_Anon:"))

    def load(self, *words):
        got = json.loads(run(self.host.program("memcached"), str(self.port), *(str(word) for word in words)))
        if got.get("bad"):
            raise RuntimeError(f"memcached: {got['bad']} wrong values")
        return got


def cgroup_prefix(cgroup):
    return ("sh", "-c", 'echo $$ >"$1" && shift && exec "$@"', "sh", cgroup.procs())


def memcached(bench):
    """memcached with its items in a RAM file, over loopback, against the same in anonymous memory under swap, and under zswap."""
    if not shutil.which("memcached"):
        raise Skip("memcached is not installed (apt-get install memcached)")
    size, dram = bench.plan.memcached, bench.plan.memcached // 4
    keys, runs = size * 9 // 10 // ITEM_BYTES, (bench.plan.service_s, 4, 0.99)
    for peer_name in ("swap", "zswap"):
        with contextlib.ExitStack() as stack:
            limit, percent = dram, 0
            if peer_name == "zswap":
                pool = bench.host.zswap_least_bytes()
                if pool > dram // 2:
                    bench.report.note("memcached zswap", "skipped", "1 % of this host's memory, zswap's least limit, is more than half of the DRAM")
                    continue
                limit, percent = dram - pool, 1
                stack.enter_context(bench.host.zswap(percent))
            tierfs = stack.enter_context(Tierfs(bench.host, dram))
            ours = stack.enter_context(Memcached(bench.host, size, (tierfs.tierctl, "run", "--"), ("-e", tierfs.path("memcached"))))
            own = ours.anonymous_bytes() + TABLE_BYTES # what is not items
            cgroup = stack.enter_context(bench.host.cgroup(limit + own))
            stack.enter_context(bench.host.swap(size * 2))
            theirs = stack.enter_context(Memcached(bench.host, size, cgroup_prefix(cgroup)))
            answers = {"tierfs": [], "peer": []}
            for server in (ours, theirs):
                server.load("fill", keys, 1000, 3)
                server.load("run", keys, 1000, 3, *runs, 1)
            if tierfs.stat()["mappers"] < 1:
                raise RuntimeError("memcached's memory is not attached")
            for turn in range(bench.plan.mix_rounds):
                for name, server in (("tierfs", ours), ("peer", theirs)):
                    answers[name].append(server.load("run", keys, 1000, 3, *runs, 2 + turn))
            report_service(bench, peer_name, answers, {"size_bytes": size, "dram_bytes": dram, "peer_limit_bytes": limit + own, "keys": keys,
                                                       "connections": 4, "data_ratio": 3, "min_idle_s": 0.1})


def report_service(bench, peer, answers, facts):
    rates = [[answer["rate"] / 1e3 for answer in answers[name]] for name in ("tierfs", "peer")]
    bench.report.add("memcached.rate", "kop/s", rates[0], f"memcached, {peer}", rates[1], **facts)
    ours, theirs = (merge(answer["hist"] for answer in answers[name]) for name in ("tierfs", "peer"))
    for key in ("p50", "p99", "p999"):
        bench.report.add(f"memcached.{key}", "us", [answer[key + "_ns"] / 1e3 for answer in answers["tierfs"]], f"memcached, {peer}",
                         [answer[key + "_ns"] / 1e3 for answer in answers["peer"]], better="lower",
                         pooled=(quantile(ours, SHARES[key]) / 1e3, quantile(theirs, SHARES[key]) / 1e3), **facts)
    for label, histogram in (("tierfs", ours), (peer, theirs)):
        bench.report.plot_latency(f"memcached-{peer}", "memcached get", label, histogram)


def guest(bench):
    """A QEMU guest: boot, fill, and work on its memory, attached with a budget that is far, against /dev/shm."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest.sh")
    size, mib = bench.plan.guest_mib * 3 // 2, bench.plan.guest_mib
    times = {"tierfs": [], "shm": []}
    with contextlib.ExitStack() as stack:
        tierfs = stack.enter_context(Tierfs(bench.host, 4 * size * MIB, min_idle=30))
        for turn in range(bench.plan.guest_rounds):
            for name in times:
                shm = stack.enter_context(bench.host.shm_file())
                file, prefix = (tierfs.path(f"vm{turn}"), [tierfs.tierctl, "run", "--"]) if name == "tierfs" else (shm, [])
                done = subprocess.run([script, file, f"{size}M", str(mib), str(bench.plan.guest_s), *prefix], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                                      env={**os.environ, "TIERFS_BUILD": bench.host.build})
                last = (done.stdout + done.stderr).strip().splitlines()[-1:] or [""]
                if done.returncode == 77:
                    raise Skip(last[0])
                if done.returncode:
                    raise RuntimeError(f"guest: {(done.stderr.strip() or last[0]).splitlines()[0]}")
                times[name].append(json.loads(last[0]))
                os.unlink(file)
        facts = {"guest_bytes": size * MIB, "accelerator": "tcg", "min_idle_s": 30}
        for key, unit, better in (("boot_s", "s", "lower"), ("fill_s", "s", "lower"), ("ops", "pages", "higher")):
            bench.report.add(f"guest.{key.split('_', maxsplit=1)[0]}", unit, [got[key] for got in times["tierfs"]], "/dev/shm",
                             [got[key] for got in times["shm"]], better=better, **facts)
