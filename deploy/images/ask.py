"""``ask.py PORT PATH``: print what this container's service answers; the status is 0 if that is 200.

The health check, every few seconds: no library is imported but the sockets, so that it costs next to nothing.
"""

import socket
import sys

port, path = sys.argv[1:]
try:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=4) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
except OSError as error:
    sys.exit(f"no answer: {error}")
head, _, body = answer.partition(b"\r\n\r\n")
print(body.decode(errors="replace"))
sys.exit(b" 200 " not in head.partition(b"\r\n")[0])
