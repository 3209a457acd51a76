"""`python -S start.py SOCKET MODULE [ARGUMENT...]`: `python -m MODULE ...`, run by the server of warm.py at SOCKET."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    told = json.dumps({"argv": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd()}).encode()
    socket.send_fds(server, [len(told).to_bytes(8, "big")], [1, 2])
    server.sendall(told)
    answer = server.recv(1)
os._exit(answer[0] if answer else 1)
