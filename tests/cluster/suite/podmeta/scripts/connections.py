"""Connects to port 80 of an address in other ways than curl. Prints a line for each way: its name, and the start of the response."""

import ipaddress
import os
import socket
import struct
import sys

REQUEST = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: metadata\r\nConnection: close\r\n\r\n"
ADDRESS = ipaddress.ip_address(sys.argv[1])
FAMILY = socket.AF_INET if ADDRESS.version == 4 else socket.AF_INET6


def fast_open():
    """Sends the request with the first packet. There is no connect(2)."""
    s = socket.socket(FAMILY, socket.SOCK_STREAM)
    # A timeout of Python makes the socket not blocking: without a cookie of the server, the call then fails with EINPROGRESS.
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        s.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 3, 0))
    s.sendto(REQUEST, socket.MSG_FASTOPEN, (str(ADDRESS), 80))
    return s


def connected(s, address):
    s.settimeout(3)
    s.connect((address, 80))
    s.sendall(REQUEST)
    return s


def multipath():
    if not os.path.exists("/proc/sys/net/mptcp/enabled"):
        return None
    return connected(socket.socket(FAMILY, socket.SOCK_STREAM, socket.IPPROTO_MPTCP), str(ADDRESS))


def mapped():
    if FAMILY == socket.AF_INET6:
        return None
    return connected(socket.socket(socket.AF_INET6, socket.SOCK_STREAM), f"::ffff:{ADDRESS}")


def not_blocking():
    s = socket.socket(FAMILY, socket.SOCK_STREAM)
    s.setblocking(False)
    s.connect_ex((str(ADDRESS), 80))
    s.settimeout(3)
    s.sendall(REQUEST)
    return s


for connect in (fast_open, multipath, mapped, not_blocking):
    try:
        s = connect()
        if s:
            print(connect.__name__, s.recv(4096).decode().splitlines()[0])
    except OSError as error:
        print(connect.__name__, error)
