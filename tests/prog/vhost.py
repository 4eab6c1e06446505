#!/usr/bin/env python3
"""A VMM's half of vhost-user: gives a back-end the memory of a guest, and says what it answers.

usage: vhost.py SOCKET FILE

FILE is a RAM file, mapped here and given whole as one region. Exit 0 when the back-end has mapped it; the connection stays until a line
comes on stdin.
"""
import array
import mmap
import os
import socket
import struct
import sys

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES = 1, 2, 3, 5, 15, 16
VERSION, NEED_REPLY = 1, 8
PROTOCOL_FEATURES, VERSION_1, REPLY_ACK = 1 << 30, 1 << 32, 1 << 3


def ask(sock, request, payload=b"", flags=0, fds=(), reply=True):
    """Sends one message; returns the payload of the answer."""
    message = struct.pack("<III", request, VERSION | flags, len(payload)) + payload
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message], rights)
    if not reply:
        return b""
    header = sock.recv(12, socket.MSG_WAITALL)
    if len(header) != 12:
        sys.exit("the back-end hung up on request %d" % request)
    return sock.recv(struct.unpack("<III", header)[2], socket.MSG_WAITALL)


def main():
    path, name = sys.argv[1:]
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    memory = os.open(name, os.O_RDWR)
    size = os.fstat(memory).st_size
    words = mmap.mmap(memory, size)
    words[:8] = b"of guest"
    ask(sock, SET_OWNER, reply=False)
    features = struct.unpack("<Q", ask(sock, GET_FEATURES))[0]
    if not features & PROTOCOL_FEATURES:
        sys.exit("the back-end has no protocol features")
    has = struct.unpack("<Q", ask(sock, GET_PROTOCOL_FEATURES))[0]
    ask(sock, SET_PROTOCOL_FEATURES, struct.pack("<Q", has & REPLY_ACK), reply=False)
    ask(sock, SET_FEATURES, struct.pack("<Q", features & (PROTOCOL_FEATURES | VERSION_1)), reply=False)
    table = struct.pack("<IIQQQQ", 1, 0, 0, size, 1 << 40, 0)
    answer = ask(sock, SET_MEM_TABLE, table, NEED_REPLY if has & REPLY_ACK else 0, [memory], bool(has & REPLY_ACK))
    if answer and struct.unpack("<Q", answer)[0]:
        sys.exit("the back-end refuses the memory")
    ask(sock, GET_FEATURES)  # it is alive, and done with the table
    print("mapped", flush=True)
    sys.stdin.readline()


main()
