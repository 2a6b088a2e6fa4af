"""What `docker-compose.yml` and `tls.yml` ask for where a stack has keys, TLS or limits per client."""

from __future__ import annotations

from deploy.backends.docker.topology import mountable
from deploy.options import Options
from deploy.security.api_keys import client_key
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack


def variables(stack: Stack, layout: Layout, options: Options) -> dict[str, str]:
    """What Compose is to fill in; the key of our own clients, which is not remembered, is looked up anew."""
    chosen = _tls(stack, layout) | _keys(stack) | {"API_KEY": client_key(stack, options)}
    chosen |= {"CLIENT_REQUESTS": str(stack.client_requests or "")}
    chosen |= {"CLIENT_CONNECTIONS": str(stack.client_connections or "")}
    return {name: value for name, value in chosen.items() if value}


def _tls(stack: Stack, layout: Layout) -> dict[str, str]:
    """Copies that containers may read, and which they see renewed."""
    if not stack.has_tls:
        return {}
    return {
        "TLS_CERT": mountable("VAR_DIR", layout.tls_cert),
        "TLS_KEY": mountable("VAR_DIR", layout.tls_key),
        "HTTPS_PORT": str(stack.https_port or 443),
    }


def _keys(stack: Stack) -> dict[str, str]:
    """The keys' folder, so that a file which takes the other's place is seen."""
    path = stack.api_keys_file
    if path is None:
        return {}
    return {"API_KEYS_FOLDER": mountable("API_KEYS_FILE", path.parent), "API_KEYS_NAME": path.name}
