"""``cluster_dns.py ZONE``: a minimal DNS server of a cluster.

ZONE is a JSON file with the list of addresses of each name. It is read again for each query.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

_A = 1  # type and codes: RFC 1035
_NAME_ERROR = 3
_TTL_SECONDS = 5  # as in CoreDNS


def parse_question(query: bytes) -> tuple[str, int, bytes]:
    """Return the name and the type of the first question of a message, and the question's bytes."""
    offset, labels = 12, []
    while length := query[offset]:
        labels.append(query[offset + 1 : offset + 1 + length].decode())
        offset += 1 + length
    return ".".join(labels).lower(), struct.unpack_from("!H", query, offset + 1)[0], query[12 : offset + 5]


def answer(query: bytes, zone: dict[str, list[str]]) -> bytes:
    """Return a message with the addresses of the name that was asked for, or with the code for an unknown name."""
    name, record_type, question = parse_question(query)
    addresses = zone.get(name, []) if record_type == _A else []
    code = 0 if name in zone else _NAME_ERROR
    head = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(addresses), 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, _A, 1, _TTL_SECONDS, 4)
    return head + question + b"".join(record + socket.inet_aton(address) for address in addresses)


def main() -> None:
    """Answer queries on port 53 until the process is killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("0.0.0.0", 53))  # noqa: S104  (in a container with a separate network)
        while True:
            query, client = listener.recvfrom(4096)
            listener.sendto(answer(query, json.loads(Path(sys.argv[1]).read_text())), client)


if __name__ == "__main__":
    main()
