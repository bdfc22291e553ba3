"""Sends requests to an address on one connection until a status other than 200. Prints this status. Creates /tmp/served after the first 200."""

import pathlib
import socket
import sys
import time

REQUEST = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
TIMEOUT = 60

s = socket.create_connection((sys.argv[1], 80), timeout=5)
deadline = time.monotonic() + TIMEOUT
while time.monotonic() < deadline:
    s.sendall(REQUEST)
    status = s.recv(4096).split(b" ", 2)[1].decode()
    if status != "200":
        print(status)
        break
    pathlib.Path("/tmp/served").touch()
    time.sleep(0.05)
else:
    print("200")
