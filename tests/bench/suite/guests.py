"""QEMU guests for the cases that move them: their work is followed on the console, they are steered by QMP."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from .host import Skip, wait_until

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# What QEMU needs besides the guest's memory: itself, its translations, the guest's kernel and initramfs while it loads them.
QEMU_BYTES = 256 << 20


def boot_files(host, stack):
    """(kernel, initramfs) of the guests of tests/vm."""
    if not shutil.which("qemu-system-x86_64"):
        raise Skip("QEMU is not installed (apt-get install qemu-system-x86)")
    place = stack.enter_context(tempfile.TemporaryDirectory(dir=host.dir))
    script = f'. "{TESTS}/lib/functions.sh"; . "{TESTS}/vm/lib.sh"; vm_prepare; echo "$vm_kernel/vmlinuz"; echo "$vm_initrd"'
    done = subprocess.run(["bash", "-c", script, f"{TESTS}/vm/any"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False, env={**os.environ, "TIERFS_BUILD": host.build, "TIERFS_TEST_DIR": place})
    lines = done.stdout.strip().splitlines() or [""]
    if done.returncode == 77:
        raise Skip(lines[-1])
    if done.returncode:
        raise RuntimeError(f"guest files: {(done.stderr.strip() or lines[-1]).splitlines()[0]}")
    return lines[-2:]


class Guest:
    """A QEMU with its memory on a file of tierfs (run by `tierctl run`), or in anonymous memory of a cgroup."""

    def __init__(self, host, files, size, settings, file=None, tierctl=None, cgroup=None, incoming=None):
        self.qmp_path = host.path("qmp")
        memory = f"memory-backend-file,id=mem,size={size},mem-path={file},share=on" if file else f"memory-backend-ram,id=mem,size={size}"
        command = ["qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-cpu", "max", "-smp", "1", "-m", str(size >> 20), "-object", memory,
                   "-machine", "pc,memory-backend=mem", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-net", "none",
                   "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-device", "virtio-balloon-pci", "-kernel", files[0], "-initrd", files[1],
                   "-append", "console=ttyS0 quiet panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 " + settings]
        if incoming:
            command += ["-incoming", incoming]
        if file:
            command = [tierctl, "run", "--", *command]
        if cgroup:
            command = ["sh", "-c", 'echo $$ >"$1" && shift && exec "$@"', "sh", cgroup.procs(), *command]
        self.lines, self.ticks = [], []
        self.errors = open(os.path.join(host.dir, "qemu.log"), "a", encoding="utf-8")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        errors="replace", bufsize=1)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.qmp_file = None

    def __enter__(self):
        try:
            wait_until(lambda: os.path.exists(self.qmp_path) or self.process.poll() is not None, 30, "QEMU")
            if self.process.poll() is not None:
                raise RuntimeError(f"QEMU ended with exit {self.process.returncode}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.qmp_file:
            self.qmp_file.close()
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.errors.close()

    def read(self):
        for line in self.process.stdout:
            line = line.strip()
            if line.startswith("GUEST: tick "):
                with contextlib.suppress(ValueError):
                    self.ticks.append((time.monotonic(), int(line.split()[2])))
            else:
                self.lines.append(line)

    def check(self):
        wrong = [line for line in self.lines if "GUEST: bad" in line or "GUEST: BAD" in line or "Kernel panic" in line]
        if wrong:
            raise RuntimeError(f"the guest found bad memory: {wrong[0]}")

    def passes(self):
        """How often it has verified all of its memory, as far as this process has seen."""
        return sum("GUEST: pass" in line for line in self.lines)

    def wait(self, text, seconds):
        wait_until(lambda: any(text in line for line in self.lines) or self.process.poll() is not None, seconds, text)
        self.check()

    def rate(self, begin, end):
        """Pages a second that the guest has worked on between two times, as far as its ticks tell."""
        ticks = [tick for tick in self.ticks if begin <= tick[0] <= end]
        if len(ticks) < 2:
            return None
        return (ticks[-1][1] - ticks[0][1]) / (ticks[-1][0] - ticks[0][0])

    def major_faults(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            return int(file.read().rsplit(")", 1)[1].split()[9])

    def qmp(self, command, **arguments):
        if not self.qmp_file:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(60)
            sock.connect(self.qmp_path)
            self.qmp_file = sock.makefile("rw", encoding="utf-8")
            sock.close() # the file keeps it
            self.qmp_file.readline()
            self.qmp("qmp_capabilities")
        self.qmp_file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.qmp_file.flush()
        while True:
            answer = json.loads(self.qmp_file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")

    def hang_up(self):
        """QEMU talks to one at a time."""
        if self.qmp_file:
            self.qmp_file.close()
        self.qmp_file = None
