"""Write the Rust files that are made from Python declarations.   With --check: only say whether they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from wesper.verdict import rust_source

TARGETS = {Path(__file__).parents[1] / "crates/wesper-core/src/verdict.rs": rust_source}


def main(check: bool) -> int:
    """Write or check all targets; return the exit code."""
    stale = [path for path, source in TARGETS.items() if not path.exists() or path.read_text() != source()]
    for path in stale:
        if check:
            print(f"{path.name} is out of date: run tools/generate_rust.py", file=sys.stderr)
        else:
            path.write_text(TARGETS[path]())
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
