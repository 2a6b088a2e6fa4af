"""Who may reach the service, and with what: told at the start and in `make status`."""

from __future__ import annotations

import ipaddress

from deploy.security import api_keys, tls
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack


def warning(stack: Stack) -> str | None:
    """A line for a service that others can reach, if it lacks a lock; which ones."""
    limits = stack.client_requests or stack.client_connections
    locks = {
        "API keys (API_KEYS_FILE)": stack.api_keys_file is not None,
        "TLS (TLS_CERT, TLS_KEY)": stack.has_tls,
        "limits per client (CLIENT_REQUESTS, CLIENT_CONNECTIONS)": limits,
    }
    missing = [name for name, there in locks.items() if not there]
    if _is_loopback(stack.http_host) or not missing:
        return None
    told = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
    return f"others can reach it, at {stack.http_host}: it has no {told}"


def description(stack: Stack, layout: Layout) -> str:
    """All of its locks, in a line."""
    file = stack.api_keys_file
    told = f"API keys of {file}" if file else "no API keys"
    if trouble := api_keys.reload_problem(stack):
        told = f"API keys read BEFORE, for {trouble}"
    return ", ".join([told, tls.describe(layout) if stack.has_tls else "no TLS", _limits(stack)])


def _limits(stack: Stack) -> str:
    told = [f"{stack.client_requests} requests/s"] if stack.client_requests else []
    told += [f"{stack.client_connections} connections"] if stack.client_connections else []
    return f"{' and '.join(told)} a client" if told else "no limits per client"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
