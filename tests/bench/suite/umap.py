"""LLNL's umap as a peer: a file on the same disk, mapped by its user-space page fault library, a build of which UMAP_DIR names."""
import contextlib
import os

from .host import Skip
from .programs import Load

# Its default, and what tierfs has in a block; UMAP_PAGESIZE in the environment replaces them.
PAGE_BYTES = (4 << 10, 16 << 10)


class Umap:
    """A load on a file that umap maps, with so much DRAM for its pages. The file was filled before it is mapped so, as by a copy."""

    def __init__(self, stack, bench, size, dram, page_bytes, seed):
        self.host, self.path, self.size = bench.host, stack.enter_context(bench.host.disk_file()), size
        environment = {"UMAP_PAGESIZE": str(page_bytes), "UMAP_BUFSIZE": str(dram // page_bytes)}
        self.load = stack.enter_context(Load(bench.host, environment=environment))
        self.load.do("map", "m", self.path, size)
        self.load.do("fill", "m", bench.plan.ratio, seed)
        self.make_cold()

    def make_cold(self):
        """What umap has in DRAM goes to the file, which it reads and writes with O_DIRECT."""
        self.load.do("unmap", "m")
        self.host.drop_caches()
        self.load.do("map", "m", "umap:" + self.path, self.size)


def label(page_bytes):
    return f"umap {page_bytes >> 10}K"


def page_sizes(bench):
    """Those to measure with; none, and a note why, where umap cannot be used."""
    if bench.umap_pages is None:
        try:
            bench.umap_pages = probe(bench)
        except (Skip, RuntimeError, ValueError) as reason:
            bench.umap_pages = ()
            bench.report.note("umap", "skipped", str(reason))
    return bench.umap_pages


def probe(bench):
    if not os.environ.get("UMAP_DIR"):
        raise Skip("UMAP_DIR does not name a build of it")
    sizes = (int(os.environ["UMAP_PAGESIZE"]),) if "UMAP_PAGESIZE" in os.environ else PAGE_BYTES
    for page_bytes in sizes:
        with contextlib.ExitStack() as stack:
            size = 64 * page_bytes
            Umap(stack, bench, size, size, page_bytes, 1).load.do("latency", "m", "sequential", 1, 0, size // 4096, 4096, 1)
    return sizes


def loads(stack, bench, size, dram, seed):
    """One for each size of its pages, by label."""
    return {label(page_bytes): Umap(stack, bench, size, dram, page_bytes, seed).load for page_bytes in page_sizes(bench)}
