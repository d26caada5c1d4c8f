"""`wesper demo` from end to end, as a user types it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wesper.demo.traffic import MARKER as TUNNEL_MARKER
from wesper.engine import native_is_built
from wesper.errors import UnsupportedError
from wesper.lab.traffic import MARKER

DEMO = [sys.executable, "-m", "wesper", "demo"]
BUILT = ("reference", "native") if native_is_built() else ("reference",)


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*DEMO, *options], capture_output=True, text=True, timeout=180)
    if done.returncode == UnsupportedError.exit_code:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    return done


def test_demo_of_the_tunnels_holds_its_claims_and_runs_again_into_the_same_folder(tmp_path: Path) -> None:
    for engine in (BUILT * 2)[:2]:
        check_a_run(tmp_path / "demo", engine)


def check_a_run(folder: Path, engine: str) -> None:
    done = run("-o", folder, "--engine", engine)
    claims = re.search(r"^(\d+) of (\d+) claims hold$", done.stdout, re.M)
    assert claims is not None
    assert claims[1] == claims[2]
    assert "✗" not in done.stdout
    assert str(folder / "report.html") in done.stdout
    assert TUNNEL_MARKER in (folder / "clear.pcapng").read_bytes()
    for protocol in ("esp", "psp", "wesp", "wespv2", "eesp"):
        assert TUNNEL_MARKER not in (folder / protocol / "wire.pcapng").read_bytes()
        assert TUNNEL_MARKER in (folder / protocol / "opened.pcapng").read_bytes()
        assert (folder / protocol / "keys.toml").stat().st_mode & 0o077 == 0
    report = (folder / "report.html").read_text()
    assert f"{claims[1]} of {claims[2]} claims hold" in report
    assert f"{engine} engine" in report
    assert "b$ wesper up " in done.stdout
    assert ("Memory over connections" in report) == (engine == "native")
    assert "--protocol eesp" in done.stdout
    assert re.search(r"^EESP .* (9|10) of 10$", done.stdout, re.M), "flows told apart by Session ID, of 16 bits"
    if shutil.which("tshark"):
        assert "✓ tshark names every field of PSP, WESP, WESPv2 and EESP" in done.stdout
    if os.geteuid() == 0 and shutil.which("clang") and shutil.which("bpftool"):
        assert "✓ an XDP program without a key counts" in done.stdout
    else:
        assert done.stdout.count("root, and apt-get install clang libbpf-dev bpftool") == 1


def test_demo_of_a_capture_protects_opens_compares_and_times(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = run("--capture", "-o", folder)
    for engine in BUILT:
        assert any(engine in line and "0 differ" in line for line in done.stdout.splitlines())
    assert "the marker is in 0 of them" in done.stdout
    assert MARKER in (folder / "plain.pcapng").read_bytes()
    assert MARKER not in (folder / "esp.pcapng").read_bytes()
    assert MARKER in (folder / "opened-reference.pcapng").read_bytes()
    assert (folder / "keys.toml").stat().st_mode & 0o077 == 0


def test_without_namespaces_there_is_one_message_and_exit_code_3(tmp_path: Path) -> None:
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    done = subprocess.run([*command, *DEMO, "-o", tmp_path / "demo"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("wesper: a network namespace is not available here: unshare says ")
    assert "user.max_user_namespaces" in done.stderr
    assert done.stderr.count("\n") == 1
