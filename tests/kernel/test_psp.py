"""The client of the kernel's PSP family against a kernel that has it, with simulated NICs (netdevsim)."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from wesper.errors import UnsupportedError
from wesper.kernel import Guest, find
from wesper.psp.netlink import COUNTERS, NETLINK_GENERIC, Family, Socket

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = Path(__file__).with_name("psp_in_guest.py")
AF_NETLINK, SOCK_RAW = 16, 3
Results = dict[str, Any]


@pytest.fixture(scope="module")
def with_psp() -> Iterator[Guest]:
    """A guest whose kernel has PSP."""
    try:
        booted = Guest(find("built"))
    except UnsupportedError as error:
        pytest.skip(str(error))
    with booted:
        yield booted


def python(guest: Guest, *arguments: str | Path, check: bool = True) -> tuple[int, str, str]:
    done = guest.run([sys.executable, *arguments], check=check, environment={"PYTHONPATH": str(SOURCE)})
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def results(with_psp: Guest) -> Results:
    """What came of each check of `psp_in_guest.py`."""
    found: Results = json.loads(python(with_psp, PROGRAM)[1])
    return found


def test_a_kernel_without_psp_says_so(guest: Guest) -> None:
    opened = cast(Socket, guest.open_socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC))
    if guest.version >= (6, 18):
        with Family(opened) as family:
            assert family.devices() == []
        return
    with pytest.raises(UnsupportedError, match=r"this kernel has no PSP; Linux has it from 6\.18 on"):
        Family(opened)
    code, _, said = python(guest, "-m", "wesper", "psp", "device", "list", check=False)
    assert (code, "this kernel has no PSP" in said) == (3, True)


def test_devices(results: Results) -> None:
    new = {"capable": [0, 1, 2, 3], "enabled": [], "associated": [], "by_association": False}
    assert results["devices"] == {
        "dump": [new],
        "get": new,
        "other namespace's": [errno.ENOENT, "", ""],
        "unknown": [errno.ENODEV, "", ""],
        "zero": [errno.ERANGE, "integer out of range", "id"],
    }


def test_versions_are_set_and_told_even_if_nothing_changed(results: Results) -> None:
    found = results["versions"]
    told = [["dev-change-ntf", found["device"], [0, 1, 2, 3]]]
    assert (found["first"], found["again"], found["enabled"]) == (told, told, [0, 1, 2, 3])


def test_rotation_is_told_and_counted(results: Results) -> None:
    found = results["rotation"]
    assert found["heard"] == [["key-rotate-ntf", found["device"], None]]
    assert (found["rotations"], found["unknown"]) == (1, [errno.ENODEV, "", ""])


def test_receive_keys(results: Results) -> None:
    assert results["receive_keys"] == {
        "key": [True, 0, 16, True],
        "long": [1, 32, True],
        "twice": [errno.EBUSY, "Socket already has PSP state", "sock-fd"],
        "UDP": [errno.EOPNOTSUPP, "Unsupported socket family and type", "sock-fd"],
        "no socket": [errno.ENOTSOCK, "", ""],
        "no descriptor": [errno.EBADF, "", ""],
        "no route": [errno.EINVAL, "", "dev-id"],
        "unknown device": [errno.ENODEV, "", ""],
        "version 4": [errno.ERANGE, "integer out of range", "version"],
    }


def test_send_keys(results: Results) -> None:
    assert results["send_keys"] == {
        "no receive key": [errno.EINVAL, "Socket has no Rx key", ""],
        "reserved SPI": [errno.EINVAL, "invalid SPI: lower 31b must be non-zero", "tx-key.key"],
        "long key": [errno.EINVAL, "incorrect key length", "tx-key.key"],
        "other version": [errno.EINVAL, "PSP version mismatch with existing state", ""],
        "short key": ["KeyMaterialError", "key: 15 octets (expected 16 octets, or 32)"],
        "twice": [errno.EBUSY, "Tx key already set", ""],
    }


@pytest.mark.parametrize("check", ["connection", "connection_over_ipv6"])
def test_a_tcp_connection_changes_over_to_psp(check: str, results: Results) -> None:
    found = results[check]
    sentence = "Socket has incompatible segments already in the recv queue"
    assert found["busy"] == [errno.EBUSY, sentence, ""], "what came in clear is to be read first"
    assert (found["ping"], found["pong"]) == (True, "pong")
    here, there = found["gained"]
    assert set(here) >= set(COUNTERS)
    assert there["rx_packets"] == here["tx_packets"] > 0
    assert here["rx_packets"] == there["tx_packets"] > 0
    assert there["rx_bytes"] == here["tx_bytes"] > 4000
    assert [each[name] for each in (here, there) for name in ("rx_auth_fail", "rx_error", "rx_bad", "tx_error")] == [
        0
    ] * 8
    assert (found["rotated"], found["stale"]) == (["more", "nothing"], 1)


def test_a_version_switched_off_is_sent_and_not_received(results: Results) -> None:
    assert results["disabled_version"] == {"sent": True, "heard": False}


def test_another_network_device_may_use_it(results: Results) -> None:
    found = results["association"]
    assert (found["associated"], found["undone"]) == ([found["index"]], [])
    assert found["twice"] == [errno.EBUSY, "Device already associated with a PSP device", ""]
    assert found["undone twice"] == found["unknown interface"] == [errno.ENODEV, "", "ifindex"]
    assert found["unknown namespace"] == [errno.EINVAL, "", "nsid"]


def test_devices_that_come_and_go_are_told(results: Results) -> None:
    found = results["coming_and_going"]
    number = found["number"]
    assert (found["added"], found["both"]) == ([["dev-add-ntf", number, []]], 2)
    assert found["others"] == [
        [errno.EINVAL, "Rx key from different device", ""],
        [errno.EINVAL, "Device id vs socket mismatch", "dev-id"],
    ]
    assert found["removed"] == [["dev-del-ntf", number, []]]


def test_only_an_administrator_sets_and_rotates(results: Results) -> None:
    assert results["ordinary_user"] == {
        "sees": 1,
        "reads": True,
        "sets": ["PermissionNeeded", "psp dev-set needs CAP_NET_ADMIN"],
        "rotates": ["PermissionNeeded", "psp key-rotate needs CAP_NET_ADMIN"],
        "receives": 16,
    }


COMMANDS = """
import os, sys
from wesper.cli import main

def run(*words):
    try:
        main(["psp", "device", *words])
    except SystemExit as ended:
        sys.stdout.flush()
        return ended.code

child = os.fork()
if child == 0:
    os.dup2(os.open("/run/watched", os.O_WRONLY | os.O_CREAT, 0o600), 1)
    os._exit(run("watch", "--count", "2", "--json"))
run("list", "--json")
number = sys.argv[1]
while not os.path.exists("/run/watched") or not os.path.getsize("/run/watched"):
    run("set", number, "--versions", "0,2")
run("rotate", number)
print("watched", os.waitpid(child, 0)[1])
run("set", number, "--versions", "1", "--dry-run")
run("stats", number)
print("code", run("set", number, "--versions", "7"))
"""


def test_the_commands(with_psp: Guest, results: Results) -> None:
    number = results["coming_and_going"]["number"] + 1
    with_psp.write("/sys/bus/netdevsim/new_device", "5 1")
    try:
        code, said, complained = python(with_psp, "-c", COMMANDS, str(number))
        watched = with_psp.read("/run/watched")
    finally:
        with_psp.write("/sys/bus/netdevsim/del_device", "5")
    assert code == 0
    listed, rest = said.split("\n}\n", 1)
    (shown,) = json.loads(listed + "\n}")["devices"]
    assert (shown["id"], shown["capable"], shown["enabled"]) == (number, [0, 1, 2, 3], [])
    assert f"device {number} receives 0 (AES-128-GCM), 2 (AES-128-GMAC); before: none" in rest
    assert f"device {number} has a new key, 1 rotation so far" in rest
    assert "watched 0" in rest
    assert f"device {number} would receive 1 (AES-256-GCM); before: 0 (AES-128-GCM), 2 (AES-128-GMAC)" in rest
    assert re.search(r"\nkey_rotations +1 *\n", rest)
    assert rest.endswith("\ncode 2\n")
    assert "--versions: '7' (expected some of 0,1,2,3, or none)" in complained
    first, second = map(json.loads, watched.splitlines())
    assert (first["schema"], first["event"], first["id"]) == (1, "dev-change-ntf", number)
    assert first["device"]["enabled"] == [0, 2]
    assert second["id"] == number
