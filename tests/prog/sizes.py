"""Sizes of RAM files, for tests/mount/test_sizes.sh.

tail FILE                          what a mapping shows behind the end, and what the file grows over
random FILE REFERENCE SEED KIND    random operations on both, which must give the same
"""
import ctypes
import mmap
import os
import random
import sys

PAGE = 4096


def expect(got, wanted, what):
    if got != wanted:
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        sys.exit(f"{what}: differs at byte {at} ({len(got)} and {len(wanted)} bytes)")


def tail(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, b"x" * 5000, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        sys.exit(f"mmap of whole pages: {os.strerror(ctypes.get_errno())}")
    whole = (ctypes.c_char * (2 * PAGE)).from_address(address)
    expect(bytes(whole[5000:]), bytes(2 * PAGE - 5000), "the tail before it was written")
    whole[6000:6010] = b"0123456789"
    expect(os.pread(fd, 2 * PAGE, 4090), b"x" * 910, "a read across the end")
    libc.munmap(address, 2 * PAGE)
    os.ftruncate(fd, 9000)
    expect(os.pread(fd, 4000, 5000), bytes(4000), "what the file grew over")
    os.close(fd)


def same(a, b, size):
    expect(os.pread(a, size + 1, 0), os.pread(b, size + 1, 0), "content")
    expect([os.fstat(a).st_size], [os.fstat(b).st_size], "size")


def random_operations(path, reference, seed):
    rng = random.Random(seed)
    fds = [os.open(name, os.O_RDWR | os.O_CREAT, 0o600) for name in (path, reference)]
    for step in range(300):
        size = os.fstat(fds[1]).st_size
        choice = rng.randrange(10)
        at = rng.randrange(max(size, 1) + 9000)
        mapped = rng.randbytes(100)
        data = rng.randbytes(rng.choice([1, 7, 512, 1000, 4096, 5000, 20000, 70001]))
        for fd in fds:
            if choice < 4:
                os.pwrite(fd, data, at)
            elif choice < 6:
                os.pwrite(fd, data, size)
            elif choice < 8:
                os.ftruncate(fd, at)
            elif size:
                with mmap.mmap(fd, size) as memory:
                    memory[at % size : at % size + 100] = mapped[: size - at % size]
        same(*fds, os.fstat(fds[1]).st_size)
    for fd in fds:
        os.close(fd)


if sys.argv[1] == "tail":
    tail(sys.argv[2])
else:
    random_operations(sys.argv[2], sys.argv[3], int(sys.argv[4]))
