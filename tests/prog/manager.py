#!/usr/bin/env python3
"""A service manager with one service, as far as tierfs can tell: starts it with NOTIFY_SOCKET and what it had stored,
listens, keeps descriptors.

    manager.py COMMANDS LOG PROGRAM [ARGUMENT...]

COMMANDS is a FIFO of lines:
    start            the service, with all descriptors that are stored
    kill NUMBER      sends the service a signal
    put NAME PATH    stores a descriptor of the manager's own
    drop NAME        forgets what is stored under that name
    env NAME VALUE   for the next start, beside what is usual, or instead of it
    end              the manager ends, and with it what it stores

LOG gets a line for each event: started PID, ended PID STATUS, stored NAME, removed NAME, told NAME=VALUE.
"""
import os
import selectors
import signal
import socket
import sys

FIRST_FD = 3
HIGH_FD = 500


class Manager:
    def __init__(self, commands, log, argv):
        self.log_file = open(log, "a", buffering=1)
        self.argv = argv
        self.stored = []
        self.environment = {}
        self.pid = self.pidfd = None
        self.address = log + ".socket"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.commands = open(os.open(commands, os.O_RDWR), "rb", buffering=0)
        self.rest = b""
        self.selector = selectors.DefaultSelector()
        # In this order: what a service says with its last breath comes before its end.
        self.selector.register(self.socket, selectors.EVENT_READ, self.on_message)
        self.selector.register(self.commands, selectors.EVENT_READ, self.on_commands)

    def log(self, text):
        self.log_file.write(text + "\n")

    def run(self):
        while True:
            events = [key.data for key, _ in self.selector.select()]
            for handler in (self.on_message, self.on_end, self.on_commands):
                if handler in events:
                    handler()

    def on_message(self):
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 16)
        fields = dict(line.partition("=")[::2] for line in data.decode().split("\n") if line)
        name = fields.get("FDNAME", "stored")
        if "FDSTORE" in fields:
            for fd in fds:
                self.stored.append((name, fd))
                self.log(f"stored {name}")
            return
        for fd in fds:
            os.close(fd)
        if "FDSTOREREMOVE" in fields:
            self.drop(name)
            return
        for key, value in fields.items():
            self.log(f"told {key}={value}")

    def drop(self, name):
        for _, fd in [item for item in self.stored if item[0] == name]:
            os.close(fd)
            self.log(f"removed {name}")
        self.stored = [item for item in self.stored if item[0] != name]

    def start(self):
        pid = os.fork()
        if pid == 0:
            try:
                self.become_service()
            finally:
                os._exit(127)
        self.pid = pid
        self.environment = {}
        self.pidfd = os.pidfd_open(pid)
        self.selector.register(self.pidfd, selectors.EVENT_READ, self.on_end)
        self.log(f"started {pid}")

    def become_service(self):
        fds = [os.dup2(fd, HIGH_FD + i) for i, (_, fd) in enumerate(self.stored)]
        for i, fd in enumerate(fds):
            os.dup2(fd, FIRST_FD + i)
        os.closerange(FIRST_FD + len(fds), HIGH_FD + len(fds) + 1)
        pid = str(os.getpid())
        environment = dict(os.environ, NOTIFY_SOCKET=self.address, SYSTEMD_EXEC_PID=pid)
        if fds:
            names = ":".join(name for name, _ in self.stored)
            environment.update(LISTEN_PID=pid, LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
        environment.update(self.environment)
        os.execvpe(self.argv[0], self.argv, environment)

    def on_end(self):
        _, status = os.waitpid(self.pid, 0)
        self.selector.unregister(self.pidfd)
        os.close(self.pidfd)
        self.log(f"ended {self.pid} {os.waitstatus_to_exitcode(status)}")
        self.pid = self.pidfd = None

    def on_commands(self):
        self.rest += os.read(self.commands.fileno(), 4096)
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            word, *arguments = line.decode().split()
            if word == "start":
                self.start()
            elif word == "kill" and self.pid:
                os.kill(self.pid, int(arguments[0]))
            elif word == "put":
                self.stored.append((arguments[0], os.open(arguments[1], os.O_RDWR)))
            elif word == "drop":
                self.drop(arguments[0])
            elif word == "env":
                self.environment[arguments[0]] = arguments[1]
            elif word == "end":
                sys.exit(0)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Manager(sys.argv[1], sys.argv[2], sys.argv[3:]).run()
