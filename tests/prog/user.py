# Works on all pages of a file's memory, twice: the second time each must have what the first wrote. user.py FILE
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
for turn in range(2):
    for page in range(0, len(memory), 4096):
        if turn:
            assert memory[page:page + 16] == b"%016d" % page, page
        memory[page:page + 16] = b"%016d" % page
