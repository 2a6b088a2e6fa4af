"""`python -m tests.peers.kserve http://127.0.0.1:8080 covertype`: use KServe's own client on a running stack.

KServe's package needs an older pandas and psutil than Forkcast does. This command therefore creates a virtual
environment under var/, installs KServe there, and runs kserve_client.py in it.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from deploy.stack.paths import ROOT

_VENV = ROOT / "var/peers/kserve"
_REQUIREMENT = "kserve==0.21.0"


def main() -> int:
    """Create the virtual environment if it is missing, and run the client in it."""
    if len(sys.argv) != 3 or not sys.argv[1].startswith(("http://", "https://")):
        sys.exit("usage: python -m tests.peers.kserve ADDRESS MODEL, as in http://127.0.0.1:8080 covertype")
    python = _VENV / "bin/python"
    if not python.exists():
        venv.create(_VENV, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", _REQUIREMENT], check=True)
    script = Path(__file__).with_name("kserve_client.py")
    # -P keeps this folder off the path, because its own module is called kserve, too.
    return subprocess.run([python, "-P", script, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
