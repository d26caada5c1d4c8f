"""Two hosts and a tunnel between them, keys rolled while a ping runs. No privilege needed."""

import subprocess
import sys
import tempfile
from pathlib import Path

from wesper.lab import routed

WESPER = [sys.executable, "-m", "wesper"]


def main(folder: Path) -> None:
    """Make the files, bring both ends up, roll the keys, end it."""
    with routed() as lab:
        a, r, b = lab
        left, right = folder / "left.toml", folder / "right.toml"
        ends = ["--local", a.address, "--peer", b.address]
        subprocess.run([*WESPER, "keygen", left, right, *ends], check=True, capture_output=True)
        for path in (left, right):  # two ends on one machine: places of their own
            places = f'[interface]\nrun_dir = "run"\nstate_dir = "state-{path.stem}"'
            path.write_text(path.read_text().replace("[interface]", places))

        for host, path in ((a, left), (b, right)):
            print(host.run([*WESPER, "up", path]).stdout.splitlines()[-2])
        with r.capture(folder / "seen.pcapng"):
            print(f"answered: {sum(each is not None for each in a.ping('10.8.0.2', count=5))} of 5")

        subprocess.run([*WESPER, "keygen", "--add", left, right], check=True, capture_output=True)
        for host, path in ((b, right), (a, left)):
            print(host.run([*WESPER, "reload", path]).stdout.strip())
        print(f"answered: {sum(each is not None for each in a.ping('10.8.0.2', count=5))} of 5")

        for host, path in ((a, left), (b, right)):
            print(host.run([*WESPER, "down", path]).stdout.strip())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
