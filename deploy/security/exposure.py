"""Texts about the protection of a service: a warning of `make up`, and a line of `make status`."""

from __future__ import annotations

import ipaddress

from deploy.security import api_keys, tls
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack


def warning(stack: Stack) -> str | None:
    """Return a warning that names the missing protection of a service that other machines can reach, or None."""
    limits = stack.client_requests or stack.client_connections
    protection = {
        "API keys (API_KEYS_FILE)": stack.api_keys_file is not None,
        "TLS (TLS_CERT, TLS_KEY)": stack.has_tls,
        "limits per client (CLIENT_REQUESTS, CLIENT_CONNECTIONS)": limits,
    }
    missing = [name for name, is_present in protection.items() if not is_present]
    if _is_loopback(stack.http_host) or not missing:
        return None
    names = " or ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
    return f"Nginx listens on {stack.http_host}, so other machines can reach the service, and it has no {names}"


def description(stack: Stack, layout: Layout) -> str:
    """Return one line on the API keys, TLS and limits per client of a service."""
    file = stack.api_keys_file
    keys = f"API keys of {file}" if file else "no API keys"
    if problem := api_keys.reload_problem(stack):
        keys = f"API keys of an EARLIER version of the file, since replicas cannot reload it: {problem}"
    return ", ".join([keys, tls.describe(layout) if stack.has_tls else "no TLS", _limits(stack)])


def _limits(stack: Stack) -> str:
    limits = [f"{stack.client_requests} requests/s"] if stack.client_requests else []
    limits += [f"{stack.client_connections} connections"] if stack.client_connections else []
    return f"{' and '.join(limits)} per client" if limits else "no limits per client"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
