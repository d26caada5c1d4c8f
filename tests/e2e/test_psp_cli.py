"""`wesper psp keys`, and PSP in `wesper pcap` and `wesper dissect`, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "psp.json").read_text())
ENTRY = next(entry for entry in VECTORS["vectors"] if entry["name"] == "e_v6_transport_vc_split_co1")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """google/psp's packet as a capture, plain and protected, and the keys of its receiver."""
    from wesper.pcap import Interface, LinkType, create_capture

    for name in ("cleartext", "encrypted"):
        with create_capture(tmp_path / f"{name}.pcap") as out:
            interface = out.add_interface(Interface(LinkType.ETHERNET))
            out.write(bytes.fromhex(ENTRY[f"{name}_packet_hex"]), 0, interface=interface)
    keys = [ENTRY["master_key0_hex"], ENTRY["master_key1_hex"]]
    text = f'[[device]]\nname = "b"\nkeys = {json.dumps(keys)}\n'
    private(tmp_path / "device.toml", text)
    private(
        tmp_path / "google.toml",
        f'{text}\n[[association]]\nrules = "google"\ndevice = "b"\nspi = 0x{ENTRY["spi"].removeprefix("0x")}\n'
        f'version = {ENTRY["version"]}\ncrypt_offset = {ENTRY["crypt_offset"]}\ncookie = "{ENTRY["vc"]}"\n',
    )
    return tmp_path


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def wesper(folder: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wesper", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize("engine", ENGINES)
def test_google_s_two_programs(engine: str, folder: Path) -> None:
    done = wesper(
        folder, "pcap", "encrypt", "cleartext.pcap", "-o", "out.pcap", "--keys", "google.toml", "--engine", engine
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"PSP: tx_packets 1, tx_bytes {int_octets()}"
    assert (folder / "out.pcap").read_bytes() == (folder / "encrypted.pcap").read_bytes()
    done = wesper(
        folder, "pcap", "decrypt", "out.pcap", "-o", "in.pcapng", "--keys", "device.toml", "--engine", engine, "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stderr)
    assert (told["opened"], told["psp_counters"]["rx_packets"]) == (1, 1)
    assert told["sas"] == [
        {
            "name": "b", "spi": f"0x{ENTRY['spi'].removeprefix('0x')}", "suite": "AES-128-GCM", "packets": 1,
            "octets": len(ENTRY["cleartext_packet_hex"]) // 2 - 14, "first_iv": 1, "last_iv": 1,
        }
    ]  # fmt: skip


def int_octets() -> int:
    """What tx_bytes counts of the packet: all between IV and ICV."""
    return len(ENTRY["encrypted_packet_hex"]) // 2 - 14 - 40 - 8 - 16 - 16


def test_keys_of_a_capture_open_it_and_nothing_else(folder: Path) -> None:
    done = wesper(folder, "psp", "keys", "device.toml", "--capture", "encrypted.pcap", "-o", "keys.toml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "1 key in keys.toml\n")
    assert (folder / "keys.toml").stat().st_mode & 0o777 == 0o600
    text = (folder / "keys.toml").read_text()
    assert ENTRY["derived_key_hex"] in text
    assert ENTRY["master_key0_hex"] not in text
    done = wesper(folder, "pcap", "decrypt", "encrypted.pcap", "-o", "in.pcap", "--keys", "keys.toml")
    assert done.returncode == 0, done.stderr
    done = wesper(folder, "dissect", "encrypted.pcap", "--keys", "keys.toml", "--json")
    assert done.returncode == 0, done.stderr
    (packet,) = json.loads(done.stdout)["packets"]
    assert [layer["name"] for layer in packet["layers"]] == ["eth", "ipv6", "udp", "psp", "psp", "udp", "data", "psp"]


def test_keys_of_spis(folder: Path) -> None:
    known = VECTORS["kdf"][0]
    keys = [known["master_key0_hex"], known["master_key1_hex"]]
    private(folder / "spec.toml", f"[[device]]\nkeys = {json.dumps(keys)}\n")
    spi = known["spi"] if known["spi"].startswith("0x") else f"0x{known['spi']}"
    done = wesper(folder, "psp", "keys", "spec.toml", "--spi", spi, "--version", str(known["version"]), "-o", "-")
    assert done.returncode == 0, done.stderr
    assert f'key = "{known["derived_key_hex"]}"' in done.stdout, "a pipe is no terminal"
    done = wesper(folder, "psp", "keys", "spec.toml", "--spi", "1-300", "--spi", "0x80000001", "-o", "many.toml")
    assert done.stderr == "301 keys in many.toml\n"
    assert (folder / "many.toml").read_text().count("[[association]]") == 301


@pytest.mark.parametrize("show", [False, True])
def test_keys_go_to_a_terminal_only_if_asked_for(show: bool, folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "wesper", "psp", "keys", "device.toml", "--spi", "1", "-o", "-"]
    done = subprocess.run(
        [*command, *(["--show"] if show else [])], cwd=folder, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # a terminal whose other end is closed
        pass
    os.close(ours)
    assert (done.returncode, b'key = "' in shown) == ((0, True) if show else (2, False))
    assert show or "keys would be shown on the terminal (expected a file, or --show)" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--spi", "0x80000000"), 2, "--spi: 0x80000000 is reserved (expected low 31 bits that are not zero)"),
        (("--spi", "x"), 2, "--spi: 'x' (expected a number of 32 bits, or first-last)"),
        (("--spi", "1-0xffffffff"), 2, "--spi: more than 262,144 SPIs (expected fewer)"),
        (("--spi", "1", "--version", "4"), 2, "--version: 4 (expected 0..3)"),
        (("--spi", "1", "--device", "c"), 2, "device.toml: no device 'c' (expected b)"),
        ((), 2, "--spi: no SPIs are named (expected either --spi or --capture)"),
        (
            ("--spi", "1", "--capture", "encrypted.pcap"),
            2,
            "--spi: given beside --capture (expected either --spi or --capture)",
        ),
        (("--capture", "cleartext.pcap"), 1, "no key was derived"),
        (("--capture", "nothing.pcap"), 4, "nothing.pcap"),
    ],
)
def test_what_can_not_be(words: tuple[str, ...], code: int, message: str, folder: Path) -> None:
    done = wesper(folder, "psp", "keys", "device.toml", "-o", "keys.toml", *words)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (folder / "keys.toml").exists()


def test_inputs_and_others_eyes_are_kept(folder: Path) -> None:
    done = wesper(folder, "psp", "keys", "device.toml", "-o", "device.toml", "--spi", "1")
    assert (done.returncode, "same file" in done.stderr) == (2, True)
    done = wesper(folder, "psp", "keys", "device.toml", "-o", "encrypted.pcap", "--capture", "encrypted.pcap")
    assert (done.returncode, "same file" in done.stderr) == (2, True)
    (folder / "device.toml").chmod(0o640)
    done = wesper(folder, "psp", "keys", "device.toml", "-o", "keys.toml", "--spi", "1")
    assert (done.returncode, "others may read" in done.stderr) == (2, True)


def test_slot_without_a_key(folder: Path) -> None:
    private(folder / "one.toml", f'[[device]]\nkeys = ["{bytes(31).hex()}01"]\n')
    done = wesper(folder, "psp", "keys", "one.toml", "-o", "keys.toml", "--spi", "1", "--spi", "0x80000001")
    assert done.returncode == 1
    assert "1 SPIs point to a device key that the file does not have" in done.stderr
    assert (folder / "keys.toml").read_text().count("[[association]]") == 1


def test_info_and_conversion_know_psp(folder: Path) -> None:
    done = wesper(folder, "pcap", "info", "encrypted.pcap")
    assert "IPv6 PSP" in done.stdout
    assert "AES-128-GCM" in done.stdout
    done = wesper(folder, "pcap", "info", "encrypted.pcap", "--psp-port", "70000")
    assert (done.returncode, "--psp-port: 70000 (expected 1..65535)" in done.stderr) == (2, True)
    done = wesper(folder, "pcap", "keys", "device.toml", "-o", "esp_sa")
    assert (done.returncode, "Wireshark has no form for PSP's keys" in done.stderr) == (2, True)
