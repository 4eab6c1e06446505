"""What the host lends to a benchmark and gets back: a directory on the disk, cgroups, swap, zswap, settings, mounts.

Everything is undone in reverse order when the run ends, whatever ends it. Settings that were changed are also noted in the
directory, so that the next run can put back what a killed one could not.
"""
import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import threading
import time

PREFIX = "tierfs-bench."
PAGE_CLUSTER = "/proc/sys/vm/page-cluster"
ZSWAP = "/sys/module/zswap/parameters/"
# What a program needs besides the memory that it works on: its text, stacks and page tables.
PROGRAM_BYTES = 8 << 20


class Skip(Exception):
    """This host cannot run it; the text says why."""


def run(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def read_text(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def write_text(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(text))


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def mounts():
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line.split()[4].replace("\\040", " ") for line in file]


def unmount(path):
    if path in mounts() and subprocess.run(["umount", path], stderr=subprocess.DEVNULL, check=False).returncode:
        run("umount", "-l", path)


def swap_files():
    with open("/proc/swaps", encoding="utf-8") as file:
        return [line.split()[0] for line in file][1:]


def hierarchy(controller):
    """Where the root of its cgroups is mounted, and whether it is of version 2, which is preferred."""
    v1 = None
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields, kind = line.split(" - ")
            path = fields.split()[4]
            kind = kind.split()
            if kind[0] == "cgroup2" and controller in read_text(os.path.join(path, "cgroup.controllers")).split():
                return path, True
            if kind[0] == "cgroup" and controller in kind[2].split(","):
                v1 = path
    if not v1:
        raise Skip(f"no {controller} cgroup")
    return v1, False


def make_group(controller, name):
    """Its path, and whether it is of version 2."""
    root, v2 = hierarchy(controller)
    if v2:
        with contextlib.suppress(OSError):
            write_text(os.path.join(root, "cgroup.subtree_control"), f"+{controller}")
    path = os.path.join(root, name)
    os.mkdir(path)
    return path, v2


def join(processes):
    """Whoever calls it is in the cgroup of that list from then on."""
    write_text(processes, os.getpid())


def remove_group(path):
    """When its last process has gone."""
    for _ in range(100):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)


class Cgroup:
    """A memory cgroup. Version 2 where the memory controller is there, else version 1."""

    def __init__(self, name):
        self.path, self.v2 = make_group("memory", name)
        self.bytes, self.helped, self.ended = None, 0, threading.Event()
        self.helper = None
        if not self.v2:
            write_text(os.path.join(self.path, "memory.oom_control"), 1)
            self.helper = threading.Thread(target=self.help_reclaim, daemon=True)
            self.helper.start()

    def help_reclaim(self):
        """On a busy machine reclaim may give up while pages are on their way to the disk; version 1 can let the program wait instead of
        killing it. A little more for a moment, and it goes on."""
        while not self.ended.wait(0.02):
            with contextlib.suppress(OSError):
                if "under_oom 1" in read_text(os.path.join(self.path, "memory.oom_control")) and self.bytes:
                    self.helped += 1
                    limit = os.path.join(self.path, "memory.limit_in_bytes")
                    write_text(limit, self.bytes + PROGRAM_BYTES)
                    time.sleep(0.01)
                    write_text(limit, self.bytes)

    def limit(self, size):
        self.bytes = size
        for last in [False] * 100 + [True]: # version 1 says EBUSY when it could not push out enough at once
            try:
                write_text(os.path.join(self.path, "memory.max" if self.v2 else "memory.limit_in_bytes"), size)
                return
            except OSError:
                if last:
                    raise
            time.sleep(0.05)

    def procs(self):
        return os.path.join(self.path, "cgroup.procs")

    def used(self):
        return int(read_text(os.path.join(self.path, "memory.current" if self.v2 else "memory.usage_in_bytes")))

    def reclaim(self):
        """Pushes out what can be pushed out."""
        if self.v2:
            high = os.path.join(self.path, "memory.high")
            for _ in range(5):
                write_text(high, 1 << 20)
            write_text(high, "max")
            return
        limit = os.path.join(self.path, "memory.limit_in_bytes")
        step = self.used() // 2
        while step > 1 << 20:
            try:
                write_text(limit, step)
            except OSError:
                break
            step //= 2
        write_text(limit, self.bytes)

    def close(self):
        self.ended.set()
        if self.helper:
            self.helper.join()
        if self.helped:
            print(f"  (the peer's cgroup ran out of memory {self.helped} times, and was helped)", flush=True)
        remove_group(self.path)


class Host:
    def __init__(self, parent, build, options=None):
        self.build = build
        self.options = options or {}
        self.parent = parent
        self.stack = contextlib.ExitStack()
        self.clear_leftovers(parent)
        self.dir = os.path.join(parent, PREFIX + str(os.getpid()))
        os.mkdir(self.dir, 0o700)
        self.stack.callback(self.remove_dir, self.dir)
        self.serial = 0
        self.saved = {}
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: exit(143))

    def program(self, name):
        return os.path.join(self.build, "tests/bench", "bench_" + name)

    def name(self, what):
        self.serial += 1
        return f"{what}{self.serial}"

    def path(self, what):
        return os.path.join(self.dir, self.name(what))

    # --- settings ---

    def set(self, path, value):
        """Changes a setting of the kernel until the end of the run."""
        old = read_text(path)
        if path not in self.saved:
            self.saved[path] = old
            write_text(os.path.join(self.dir, "settings.json"), json.dumps(self.saved))
            self.stack.callback(write_text, path, old)
        if old != str(value):
            write_text(path, value)

    @contextlib.contextmanager
    def setting(self, path, value):
        old = read_text(path)
        self.set(path, value)
        try:
            yield
        finally:
            write_text(path, old)

    @staticmethod
    def drop_caches():
        os.sync()
        write_text("/proc/sys/vm/drop_caches", 1)

    # --- peers ---

    @contextlib.contextmanager
    def cgroup(self, size):
        group = Cgroup(f"{PREFIX}{os.getpid()}.{self.name('')}")
        try:
            group.limit(size)
            yield group
        finally:
            group.close()

    @contextlib.contextmanager
    def processors(self):
        """A cgroup that has as much of the processors as any other: what a host gives each of its machines. Its list of processes."""
        path, v2 = make_group("cpu", f"{PREFIX}{os.getpid()}.{self.name('')}")
        try:
            if not os.path.exists(os.path.join(path, "cpu.weight" if v2 else "cpu.shares")):
                raise Skip("the cpu controller cannot be enabled")
            yield os.path.join(path, "cgroup.procs")
        finally:
            remove_group(path)

    @contextlib.contextmanager
    def swap(self, size):
        """A swap file on the disk of the pool, which is preferred to whatever else the host swaps to."""
        path = self.path("swap")
        try:
            with open(path, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                os.posix_fallocate(file.fileno(), 0, size)
            run("mkswap", path)
            try:
                run("swapon", "-p", "32767", path)
            except RuntimeError as error:
                raise Skip(f"swapon: {error}") from error
            yield path
        finally:
            self.swap_off(path)

    @staticmethod
    def swap_off(path):
        if path in swap_files():
            subprocess.run(["swapoff", path], check=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    @contextlib.contextmanager
    def zswap(self, percent):
        """zswap in front of the swap file; at most so many percent of the host's memory."""
        if not os.path.exists(ZSWAP + "enabled"):
            raise Skip("the kernel has no zswap")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.setting(ZSWAP + "max_pool_percent", percent))
            try:
                with contextlib.suppress(OSError):
                    stack.enter_context(self.setting(ZSWAP + "compressor", "zstd"))
                stack.enter_context(self.setting(ZSWAP + "enabled", "Y"))
            except OSError as error:
                raise Skip(f"zswap cannot be enabled: {error}") from error
            yield read_text(ZSWAP + "compressor")

    @staticmethod
    def zswap_least_bytes():
        """Its limit is in whole percents of the host's memory."""
        with open("/proc/meminfo", encoding="utf-8") as file:
            return int(file.readline().split()[1]) // 1024 // 100 << 20

    @contextlib.contextmanager
    def tmpfs(self, options):
        path = self.path("tmpfs")
        os.mkdir(path)
        try:
            run("mount", "-t", "tmpfs", "-o", options, "tierfs-bench", path)
            yield path
        finally:
            unmount(path)

    @contextlib.contextmanager
    def shm_file(self):
        path = f"/dev/shm/{PREFIX}{os.getpid()}.{self.name('')}"
        if not os.path.isdir("/dev/shm"):
            raise Skip("no /dev/shm")
        try:
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    @contextlib.contextmanager
    def disk_file(self):
        path = self.path("file")
        try:
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # --- the end ---

    @classmethod
    def clear_leftovers(cls, parent):
        """What a run left that was killed; there is only one run at a time, so they are all dead."""
        for path in glob.glob(os.path.join(parent, PREFIX + "*")):
            if not path[len(os.path.join(parent, PREFIX)):].isdigit():
                continue
            with contextlib.suppress(OSError, ValueError):
                for name, value in json.loads(read_text(os.path.join(path, "settings.json"))).items():
                    write_text(name, value)
            cls.remove_dir(path)
        for path in glob.glob(f"/dev/shm/{PREFIX}*"):
            os.unlink(path)
        for path in (glob.glob(f"/sys/fs/cgroup/{PREFIX}*") + glob.glob(f"/sys/fs/cgroup/memory/{PREFIX}*") +
                     glob.glob(f"/sys/fs/cgroup/cpu*/{PREFIX}*")):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    @classmethod
    def remove_dir(cls, path):
        for name in swap_files():
            if name.startswith(path + "/"):
                cls.swap_off(name)
        for name in sorted(mounts(), reverse=True):
            if name.startswith(path + "/"):
                unmount(name)
        shutil.rmtree(path, ignore_errors=True)

    def close(self):
        self.stack.close()
