# Locks all of a file's memory past libtierfs, by the system call of x86_64 itself, and stays for some seconds. lock.py FILE [SECONDS]
import ctypes, mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x95\0\0\0\x0f\x05\xc3")  # mov $149, %eax; syscall; ret
mlock = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print("locks", flush=True)
print("locked", mlock(address, len(memory)), flush=True)
time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
