"""The PSP daemon's file, and its life in the background."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wesper.errors import ConfigError, KeyMaterialError
from wesper.psp import Limits, identity
from wesper.psp.host_file import load_host

RUN = [sys.executable, "-m", "wesper"]


def written(folder: Path, text: str) -> Path:
    """Return a file with an identity beside it; FP in the text is its fingerprint."""
    if not (folder / "left.crt").exists():
        identity.make("left", folder)
    print_ = identity.fingerprint(identity.read_certificate(folder / "left.crt"))
    path = folder / "left.toml"
    path.write_text(text.replace("FP", identity.written(print_)))
    return path


GOOD = """[host]
certificate = "left.crt"
key = "left.key"
port = 4100
addresses = ["192.0.2.1", "2001:db8::1"]
socket = "left.sock"
[host.limits]
packets = 1000
[[peer]]
name = "right"
fingerprint = "FP"
address = "192.0.2.2"
"""


def test_a_file_says_it_all(tmp_path: Path) -> None:
    found = load_host(written(tmp_path, GOOD))
    settings = found.settings
    assert (settings.port, settings.control_port, settings.version) == (4100, 1000, 0)
    assert [str(each) for each in settings.addresses] == ["192.0.2.1", "2001:db8::1"]
    assert settings.limits == Limits(packets=1000)
    assert settings.peers[0].name == "right"
    assert len(settings.peers[0].fingerprint or b"") == 32
    assert found.socket == tmp_path / "left.sock"
    assert found.log == tmp_path / "left.log"


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("port = 4100", "port = 0", 4, "host.port"),
        ("port = 4100", "prot = 4100", 4, "port"),
        ("port = 4100", 'port = "x"', 4, "host.port"),
        ("port = 4100", "version = 9", 4, "0..3"),
        ("port = 4100", "crypt_offset = 3", 4, "multiple of 4"),
        ("packets = 1000", "packets = 0", 8, "host.limits.packets"),
        ('"192.0.2.1", ', '"nowhere", ', 5, "no address"),
        ('certificate = "left.crt"', 'certificate = "none.crt"', 2, "no file"),
        ('fingerprint = "FP"', 'fingerprint = "12:34"', 11, "64 hexadecimal digits"),
        ('fingerprint = "FP"\n', "", None, "authority"),
        ('address = "192.0.2.2"', 'address = "right"', 12, "no address"),
        ('name = "right"', 'name = ""', 10, "what the peer is called"),
        ("[[peer]]", '[[peer]]\nname = "right"\nfingerprint = ""\n[[peer]]', None, "stands twice"),
        ('key = "left.key"\n', "", None, "key"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int | None, told: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_host(path)
    assert told in str(error.value)
    if line is not None:
        assert error.value.line == line


def test_nobody_known_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody is known"):
        load_host(written(tmp_path, GOOD.partition("[[peer]]")[0]))


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    (tmp_path / "left.key").chmod(0o644)
    with pytest.raises(KeyMaterialError, match="chmod 600"):
        load_host(path)


def local(folder: Path) -> Path:
    text = GOOD.replace('"192.0.2.1", "2001:db8::1"', '"127.0.0.1"').replace(
        "port = 4100", "port = 41413\ncontrol_port = 41414"
    )
    return written(folder, text.replace("[host.limits]", 'interface = ""\n[host.limits]'))


def wesper(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, "psp", *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


def test_up_status_rotate_down(tmp_path: Path) -> None:
    path, socket = local(tmp_path), tmp_path / "left.sock"
    made = wesper("up", path)
    assert made.returncode == 0, made.stderr
    try:
        assert socket.stat().st_mode & 0o777 == 0o600
        again = wesper("up", path)
        assert again.returncode != 0
        assert "runs already" in again.stderr or "in use" in again.stderr
        assert "generation 1" in wesper("rotate", "--socket", socket).stdout
        shown = wesper("status", "--socket", socket)
        assert "UDP port 41413" in shown.stdout
        assert '"generation": 1' in wesper("status", "--json", "--socket", socket).stdout
    finally:
        ended = wesper("down", "--socket", socket)
    assert ended.returncode == 0, ended.stderr
    assert not socket.exists()
    log = (tmp_path / "left.log").read_text()
    assert [word for word in ("started", "rotated", "stopped") if word in log] == ["started", "rotated", "stopped"]
    gone = wesper("status", "--socket", socket)
    assert gone.returncode == 4
    assert "wesper psp up" in gone.stderr


def test_what_a_killed_daemon_left_stops_nobody(tmp_path: Path) -> None:
    path, socket = local(tmp_path), tmp_path / "left.sock"
    for _ in range(2):
        made = wesper("up", path)
        assert made.returncode == 0, made.stderr
        os.kill(int(made.stdout.split("pid ")[1].split(",")[0]), 9)
    assert wesper("up", path).returncode == 0
    assert wesper("down", "--socket", socket).returncode == 0


def test_a_port_that_needs_privilege_is_told_with_the_key_to_change(tmp_path: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = nobody if os.geteuid() == 0 else []
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    if int(start) <= 1000:
        pytest.skip("this host lets everybody bind port 1000")
    path = local(tmp_path)
    path.write_text(path.read_text().replace("port = 41413", "port = 1000", 1))
    program = """
import asyncio
from wesper.psp.links import open_receivers
from ipaddress import ip_address
open_receivers([ip_address("127.0.0.1")], 1000)
"""
    done = subprocess.run([*command, sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if command and "No module" in done.stderr:
        pytest.skip("the checkout can't be read by nobody")
    assert "`port = ` of 1024 or more" in done.stderr
