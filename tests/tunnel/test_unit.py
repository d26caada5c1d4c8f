"""The systemd unit's limits leave a tunnel what it needs; tried without systemd, which containers do not have."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from wesper.lab import pair

from .ends import PATIENCE_S, await_ping, ending, two_ends

pytestmark = pytest.mark.usefixtures("namespaces")
UNIT = (Path(__file__).parents[2] / "packaging" / "wesper@.service").read_text()

# What MemoryDenyWriteExecute does, by prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN) where the kernel has it (6.3).
WITHOUT_NEW_CODE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def setting(name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", UNIT, re.M)
    assert found is not None
    return found[1]


@pytest.mark.needs_tun  # the veth pair instead of it would take CAP_SYS_ADMIN, which the unit has not
@pytest.mark.needs_tool("setpriv", package="util-linux")
def test_a_tunnel_runs_within_the_units_limits_and_tells_when_it_is_ready(tmp_path: Path) -> None:
    assert setting("Type") == "notify"
    assert setting("MemoryDenyWriteExecute") == "yes"
    assert setting("ExecStart") == "/usr/local/bin/wesper up --foreground /etc/wesper/%i.toml"
    kept = ",".join(f"+{each.lower().removeprefix('cap_')}" for each in setting("CapabilityBoundingSet").split())
    confined = ["setpriv", "--bounding-set", f"-all,{kept}", "--inh-caps", f"-all,{kept}", "--no-new-privs"]
    notify = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, pair() as lab:
        told.bind(str(notify))
        told.settimeout(PATIENCE_S)
        left, right = two_ends(tmp_path, *lab, "auto")
        with ending(right):
            right.up()
            command = [*confined, sys.executable, "-c", WITHOUT_NEW_CODE, "-m", "wesper", "up", "--foreground"]
            environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
            with left.host.spawn([*command, left.path], env=environment) as service:
                assert told.recv(200).startswith(b"READY=1")
                await_ping(left, right.inner)
                service.terminate()
                assert told.recv(200) == b"STOPPING=1"
                assert service.wait(PATIENCE_S) == 0
