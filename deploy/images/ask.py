"""``ask.py PORT PATH``: GET a path of this container's service and print the body; exit with 0 if the status is 200.

Docker runs this health check every few seconds, so it imports nothing but sockets to stay cheap.
"""

import socket
import sys

port, path = sys.argv[1:]
try:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=4) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = b"".join(iter(lambda: connection.recv(65536), b""))
except OSError as error:
    sys.exit(f"no answer: {error}")
head, _, body = response.partition(b"\r\n\r\n")
print(body.decode(errors="replace"))
sys.exit(b" 200 " not in head.partition(b"\r\n")[0])
