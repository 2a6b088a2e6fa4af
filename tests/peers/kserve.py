"""`python -m tests.peers.kserve http://127.0.0.1:8080 covertype`: let KServe's own client ask a stack that is up.

KServe's package needs an older pandas and psutil than Forkcast does, so it lives in a virtual environment of its own
under var/, which the command makes; kserve_client.py is what runs there.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from deploy.stack.paths import ROOT

_HOME = ROOT / "var/peers/kserve"
_CLIENT = "kserve==0.21.0"


def main() -> int:
    """Make the environment where there is none, and ask."""
    if len(sys.argv) != 3 or not sys.argv[1].startswith(("http://", "https://")):
        sys.exit("usage: python -m tests.peers.kserve ADDRESS MODEL, as in http://127.0.0.1:8080 covertype")
    python = _HOME / "bin/python"
    if not python.exists():
        venv.create(_HOME, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", _CLIENT], check=True)
    script = Path(__file__).with_name("kserve_client.py")
    # -P: this folder, too, has a module called kserve.
    return subprocess.run([python, "-P", script, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
