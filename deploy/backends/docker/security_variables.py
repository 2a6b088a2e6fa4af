"""The variables of `docker-compose.yml` and `tls.yml` for API keys, TLS and limits per client."""

from __future__ import annotations

from deploy.backends.docker.topology import mountable_path
from deploy.options import Options
from deploy.security.api_keys import client_key
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack


def variables(stack: Stack, layout: Layout, options: Options) -> dict[str, str]:
    """Return the variables; the API key of the stack's own clients is read again, since no record keeps it."""
    chosen = _tls(stack, layout) | _keys(stack) | {"API_KEY": client_key(stack, options)}
    chosen |= {"CLIENT_REQUESTS": str(stack.client_requests or "")}
    chosen |= {"CLIENT_CONNECTIONS": str(stack.client_connections or "")}
    return {name: value for name, value in chosen.items() if value}


def _tls(stack: Stack, layout: Layout) -> dict[str, str]:
    """Return the paths of the copies that containers may read, and that are replaced when they are renewed."""
    if not stack.has_tls:
        return {}
    return {
        "TLS_CERT": mountable_path("VAR_DIR", layout.tls_cert),
        "TLS_KEY": mountable_path("VAR_DIR", layout.tls_key),
        "HTTPS_PORT": str(stack.https_port or 443),
    }


def _keys(stack: Stack) -> dict[str, str]:
    """Return the folder and the name of the keys file: a mounted folder also shows a file that replaces it."""
    path = stack.api_keys_file
    if path is None:
        return {}
    return {"API_KEYS_FOLDER": mountable_path("API_KEYS_FILE", path.parent), "API_KEYS_NAME": path.name}
