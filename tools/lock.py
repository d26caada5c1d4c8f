"""Pin the newest versions that pyproject.toml allows into requirements.lock and requirements-dev.lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PINS = {
    "requirements.lock": [],
    # One version of a package in both files: the first constrains the second.
    "requirements-dev.lock": ["--all-extras", "--group", "lock", "--constraint", "requirements.lock"],
}


def main() -> int:
    """Write both files and return the exit code."""
    for name, options in PINS.items():
        command = [str(ROOT / ".venv/bin/uv"), "pip", "compile", "--quiet", "--upgrade", "--universal"]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-header", "--no-emit-index-url"]
        command += ["--group", "build", *options, "pyproject.toml", "--output-file", name]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
