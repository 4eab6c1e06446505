"""The programs of a benchmark: a load that obeys commands, and a tierfs daemon with its mount."""
import contextlib
import json
import os
import signal
import subprocess
import time

from .host import mounts, run, unmount, wait_until

TICKS = os.sysconf("SC_CLK_TCK")


class Load:
    """bench_load: one command a line, one answer a line."""

    def __init__(self, host, cgroup=None, attached=False, environment=None, stranger=None, before=None):
        build = stranger.build if stranger else host.build
        command = [os.path.join(build, "tests/bench/bench_load")]
        if attached:
            command = [os.path.join(build, "bin/tierctl"), "run", "--"] + command
        if cgroup:
            command = ["sh", "-c", 'echo $$ >"$1" && shift && exec "$@"', "sh", cgroup.procs()] + command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                        env={**os.environ, **(environment or {})}, preexec_fn=stranger.become if stranger else before)
        self.begun = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def do(self, *words):
        self.begin(*words)
        return self.finish()

    def begin(self, *words):
        self.begun = " ".join(str(word) for word in words)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(self.begun + "\n")

    def finish(self):
        text = self.begun
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait(5)
            why = "killed, as when a cgroup is out of memory" if status == -signal.SIGKILL else f"exit {status}"
            raise RuntimeError(f"bench_load ended at '{text}': {why}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"bench_load: {text}: {answer['error']}")
        if answer.get("bad"):
            raise RuntimeError(f"bench_load: {text}: {answer['bad']} wrong words")
        return answer


def process_cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def process_io(pid):
    with open(f"/proc/{pid}/io", encoding="utf-8") as file:
        return {key: int(value) for key, value in (line.split(": ") for line in file)}


class Tierfs:
    """A daemon in the foreground on a pool of its own."""

    def __init__(self, host, dram, min_idle=0.1, **options):
        self.host = host
        self.tierctl = os.path.join(host.build, "bin/tierctl")
        self.mount = host.path("mnt")
        self.options = {**host.options, "dram": dram, "min_idle": min_idle, **options}
        os.mkdir(self.mount)
        self.log = open(os.path.join(host.dir, "tierfs.log"), "a", encoding="utf-8")
        text = ",".join(key if value is None else f"{key}={value}" for key, value in self.options.items())
        self.daemon = subprocess.Popen([os.path.join(host.build, "bin/tierfs"), "-f", "-o", text, host.path("pool"), self.mount],
                                       stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = self.daemon.pid

    def __enter__(self):
        try:
            wait_until(lambda: self.daemon.poll() is not None or self.mount in mounts(), 30, "mount")
            if self.daemon.poll() is not None:
                raise RuntimeError(f"tierfs does not start: {self.last_words()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def last_words(self):
        with open(self.log.name, encoding="utf-8") as file:
            return (file.readlines() or ["it says nothing"])[-1].strip()

    def __exit__(self, *_):
        # Files that are gone need not be demoted by the end of the mount.
        with contextlib.suppress(OSError):
            for place, _, names in os.walk(self.mount) if self.daemon.poll() is None else []:
                for name in names:
                    os.unlink(os.path.join(place, name))
        unmount(self.mount)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number:
                self.daemon.send_signal(number)
            try:
                self.daemon.wait(30)
                break
            except subprocess.TimeoutExpired:
                pass
        self.log.close()

    def path(self, name):
        return os.path.join(self.mount, name)

    def stat(self, name=None):
        return json.loads(run(self.tierctl, "stat", "--json", self.path(name) if name else self.mount))

    def set(self, name, value):
        run(self.tierctl, "set", self.mount, f"{name}={value}")

    def share(self, name, **values):
        """Of a file or a directory: min, max, weight."""
        run(self.tierctl, "set", self.path(name), *(f"dram.{key}={value}" for key, value in values.items()))

    def demote(self, name):
        """Demotes all of a file, and returns what the daemon spent on it."""
        before = self.cost()
        for _ in range(20):
            run(self.tierctl, "demote", self.path(name))
            if self.stat(name)["resident_bytes"] == 0:
                break
        else:
            raise RuntimeError(f"{self.stat(name)['resident_bytes']} bytes stay resident")
        return self.cost(before)

    def cost(self, since=None):
        now = {"seconds": time.monotonic(), "cpu_s": process_cpu_s(self.pid)}
        io = process_io(self.pid)
        now["disk_read_bytes"] = io["read_bytes"]
        now["disk_write_bytes"] = io["write_bytes"]
        return {key: now[key] - since[key] for key in now} if since else now

    def anonymous_bytes(self):
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="utf-8") as file:
            for line in file:
                if line.startswith("Pss_Anon:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("no Pss_Anon")

    @contextlib.contextmanager
    def profile(self, path):
        """perf record of the daemon and of the kernel for it, if a file to write to is given."""
        if not path:
            yield
            return
        asks, told = os.pipe()
        answered, answers = os.pipe()
        perf = subprocess.Popen(["perf", "record", "-q", "-F", "1999", "-D", "-1", f"--control=fd:{asks},{answers}", "-o", path + ".data",
                                 "-p", str(self.pid)], pass_fds=(asks, answers),
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(asks)
        os.close(answers)
        try:
            with contextlib.suppress(BrokenPipeError):
                os.write(told, b"enable\n")
                os.read(answered, 16) # its start takes longer than some loads
            yield
        finally:
            perf.send_signal(signal.SIGINT)
            perf.wait()
            os.close(told)
            os.close(answered)
            with open(path, "w", encoding="utf-8") as file:
                for keys in ("comm,dso", "comm,symbol"):
                    subprocess.run(["perf", "report", "-i", path + ".data", "--stdio", "--percent-limit", "1", "--sort", keys],
                                   stdout=file, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
            with open(path, encoding="utf-8") as file:
                if "%" not in file.read():
                    print(f"  (perf took no sample: {path} is empty)", flush=True)
            os.unlink(path + ".data")
