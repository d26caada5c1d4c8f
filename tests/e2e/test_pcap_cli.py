"""`wesper pcap` and `wesper dissect` as a user types them."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path
from struct import pack

import pytest

from wesper.pcap import LinkType, open_capture

from ..engine.packets import icmp, ipv4, ipv6, udp
from ..pcap.crossing import captured, sealed, static_sa

ENGINES = ("reference", pytest.param("native", marks=pytest.mark.needs_native))
A, B = ip_address("10.1.0.1"), ip_address("10.2.0.2")
PACKETS = [ipv4(icmp(8, 0), 1), ipv4(udp(ends=(A, B)), 17), ipv6(icmp(128, 0), 58)]
KEY = static_sa().key.hex()
SALT = static_sa().salt.hex()


def wesper(
    *arguments: str | Path, folder: Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wesper", *map(str, arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, env=env, timeout=120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a key file and a plain capture."""
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[sa]]\nname = "office"\nspi = 0x1000\nsuite = "aes-gcm-16"\nkey = "{KEY}"\nsalt = "{SALT}"\n'
        'local = "192.0.2.1"\nremote = "198.51.100.2"\nesn = false\n'
    )
    keys.chmod(0o600)
    (tmp_path / "plain.pcapng").write_bytes(captured(PACKETS))
    return tmp_path


def data_of(path: Path, interface: str = "") -> list[bytes]:
    with open_capture(path) as capture:
        return [r.data for r in capture if not interface or capture.interfaces[r.interface].name == interface]


@pytest.mark.parametrize("engine", ENGINES)
def test_encrypt_then_decrypt(folder: Path, engine: str) -> None:
    done = wesper(
        "pcap", "encrypt", "plain.pcapng", "-o", "esp.pcapng", "--keys", "keys.toml", "--engine", engine, folder=folder
    )
    assert done.returncode == 0, done.stderr
    summary = done.stderr.decode().split("\n")
    assert summary[0] == "3 packets: 3 protected, 0 dropped, 0 other"
    assert summary[2].split() == ["0x00001000", "office", "aes-gcm-16", "3", str(sum(map(len, PACKETS))), "1-3"]
    assert [p[9] for p in data_of(folder / "esp.pcapng")] == [50] * 3
    done = wesper(
        "pcap", "decrypt", "esp.pcapng", "-o", "both.pcapng", "--keys", "keys.toml", "--engine", engine, folder=folder
    )
    assert done.returncode == 0, done.stderr
    assert data_of(folder / "both.pcapng", "wesper") == PACKETS
    assert data_of(folder / "both.pcapng", "eth0") == data_of(folder / "esp.pcapng")


def test_pipes_and_json(folder: Path) -> None:
    plain = (folder / "plain.pcapng").read_bytes()
    esp = wesper("pcap", "encrypt", "-", "-o", "-", "--keys", "keys.toml", "--json", folder=folder, stdin=plain)
    assert esp.returncode == 0, esp.stderr
    summary = json.loads(esp.stderr)
    assert (summary["schema"], summary["packets"], summary["protected"], summary["dropped"]) == (1, 3, 3, {})
    assert summary["sas"][0]["last_sequence"] == 3
    back = wesper(
        "pcap", "decrypt", "-", "-o", "-", "--keys", "keys.toml", "--inner-only", folder=folder, stdin=esp.stdout
    )
    assert back.returncode == 0
    info = wesper("pcap", "info", "-", "--json", folder=folder, stdin=back.stdout)
    found = json.loads(info.stdout)
    assert (found["schema"], found["packets"]) == (1, 3)
    assert found["protocols"] == {"IPv4 ICMP": 1, "IPv4 UDP": 1, "IPv6 ICMPv6": 1}
    assert found["interfaces"][0]["name"] == "wesper"


def test_nothing_opened_is_exit_1_and_says_why(folder: Path) -> None:
    (folder / "other.pcapng").write_bytes(captured([sealed(PACKETS[0], spi=0x9999), *PACKETS]))
    done = wesper("pcap", "decrypt", "other.pcapng", "-o", "out.pcapng", "--keys", "keys.toml", folder=folder)
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "4 packets: 0 opened, 1 dropped, 3 other" in said
    assert "no_sa: 1: no SA for this SPI (no SA of the key file has that SPI and those addresses)" in said
    assert len(data_of(folder / "out.pcapng")) == 4


def test_cut_capture_is_exit_4_and_the_rest_is_there(folder: Path) -> None:
    octets = (folder / "plain.pcapng").read_bytes()[:-5]
    (folder / "cut.pcapng").write_bytes(octets)
    for arguments in (
        ("pcap", "encrypt", "cut.pcapng", "-o", "out.pcapng", "--keys", "keys.toml"),
        ("pcap", "info", "cut.pcapng"),
        ("dissect", "cut.pcapng"),
    ):
        done = wesper(*arguments, folder=folder)
        assert done.returncode == 4, arguments
        assert b"the file ends" in done.stderr
        assert b"Traceback" not in done.stderr
    assert len(data_of(folder / "out.pcapng")) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "pcap encrypt plain.pcapng -o row.key --keys row.toml",
        "pcap decrypt plain.pcapng -o row.key --keys row.toml",
        "pcap keys row.toml -o row.key",
    ],
)
def test_files_that_a_key_file_names_are_not_overwritten(folder: Path, arguments: str) -> None:
    (folder / "row.toml").write_text('[[sa]]\nspi = 256\nsuite = "aes-gcm-16"\nkey_file = "row.key"\n')
    row = folder / "row.key"
    row.write_text("11" * 20)
    for name in ("row.toml", "row.key"):
        (folder / name).chmod(0o600)
    done = wesper(*arguments.split(), folder=folder)
    assert done.returncode == 2
    assert b"output and input are the same file" in done.stderr
    assert row.read_text() == "11" * 20


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("pcap decrypt plain.pcapng -o plain.pcapng --keys keys.toml", 2, "output and input are the same file"),
        ("pcap decrypt plain.pcapng -o keys.toml --keys keys.toml", 2, "output and input are the same file"),
        ("pcap encrypt plain.pcapng -o ./plain.pcapng --keys keys.toml", 2, "output and input are the same file"),
        ("pcap keys keys.toml -o keys.toml", 2, "output and input are the same file"),
        ("pcap decrypt none.pcapng -o out --keys keys.toml", 4, "none.pcapng: No such file or directory"),
        ("pcap decrypt plain.pcapng -o out --keys none", 4, "none: No such file or directory"),
        ("pcap decrypt plain.pcapng -o no/folder --keys keys.toml", 4, "no/folder: No such file or directory"),
        ("pcap decrypt keys.toml -o out --keys keys.toml", 2, "keys.toml: at octet 0: the file begins with 5b 5b"),
        ("pcap info keys.toml", 2, "expected a pcap or pcapng capture"),
        ("pcap info none", 4, "none: No such file or directory"),
        ("pcap decrypt plain.pcapng --keys keys.toml", 2, "--output"),
        ("pcap decrypt plain.pcapng -o out --keys keys.toml --engine rust", 2, "rust"),
        ("pcap encrypt plain.pcapng -o out --keys keys.toml --sequence 0", 2, "sequence"),
        ("dissect xyz", 2, "no such file, and not hexadecimal"),
        ("dissect 450", 2, "no such file, and not hexadecimal"),
        ("dissect plain.pcapng --keys none", 4, "none: No such file or directory"),
    ],
)
def test_mistakes(folder: Path, arguments: str, code: int, message: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = wesper(*arguments.split(), folder=folder)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert message in said
    assert said.startswith("wesper: ")
    assert said.count("\n") == 1
    # Inputs are as they were, and no half-written file is left
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_key_files_of_others_and_legacy_suites(folder: Path) -> None:
    (folder / "keys.toml").chmod(0o644)
    for command in (("dissect", "plain.pcapng"), ("pcap", "decrypt", "plain.pcapng", "-o", "out")):
        done = wesper(*command, "--keys", "keys.toml", folder=folder)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr == (
            b"wesper: keys.toml: others may read this key file (mode 0644) (expected chmod 600 keys.toml)\n"
        )
    (folder / "esp_sa").write_text(
        f'"IPv4","*","*","*","TripleDES-CBC [RFC2451]","0x{KEY}","HMAC-MD5-96 [RFC2403]","0x{KEY}"\n'
    )
    (folder / "esp_sa").chmod(0o600)
    done = wesper("pcap", "decrypt", "plain.pcapng", "-o", "out", "--keys", "esp_sa", folder=folder)
    assert done.returncode == 2
    assert b"esp_sa:1: encryption: TripleDES-CBC [RFC2451] is a legacy algorithm, which wesper refuses" in done.stderr
    assert KEY.encode() not in done.stderr


def test_convert_keys(folder: Path) -> None:
    assert wesper("pcap", "keys", "keys.toml", "-o", "esp_sa", folder=folder).returncode == 0
    assert stat.S_IMODE((folder / "esp_sa").stat().st_mode) == 0o600
    printed = wesper("pcap", "keys", "keys.toml", "-o", "-", folder=folder).stdout
    assert printed == (folder / "esp_sa").read_bytes()
    assert wesper("pcap", "keys", "esp_sa", "-o", "again.toml", folder=folder).returncode == 0
    assert f'key = "{KEY}"' in (folder / "again.toml").read_text()
    (folder / "keys.toml").write_text(
        (folder / "keys.toml").read_text()
        + f'[[sa]]\nspi = 0x1001\nsuite = "aes-gmac"\nkey = "{KEY}"\nsalt = "{SALT}"\n'
    )
    done = wesper("pcap", "keys", "keys.toml", "-o", "esp_sa", folder=folder)
    assert done.returncode == 1
    assert done.stderr == b"wesper: SPI 0x00001001 is left out: Wireshark has no name for aes-gmac\n"


@pytest.mark.parametrize("form", ["argument", "stdin", "file", "tcpdump"])
def test_dissect_hexadecimal(folder: Path, form: str) -> None:
    packet = sealed(PACKETS[0])
    text = packet.hex()
    if form == "argument":
        done = wesper("dissect", text, "--keys", "keys.toml", folder=folder)
    elif form == "file":
        (folder / "packet.txt").write_text(packet.hex(" ") + "\n")
        done = wesper("dissect", "packet.txt", "--keys", "keys.toml", folder=folder)
    else:
        if form == "tcpdump":
            lines = [text[at : at + 32] for at in range(0, len(text), 32)]
            text = "\n".join(f"\t0x{16 * number:04x}:  {line}" for number, line in enumerate(lines))
        done = wesper("dissect", "--keys", "keys.toml", folder=folder, stdin=text.encode())
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode()
    assert re.search(r"^ +20-23  esp\.spi +0x00001000  office +RFC 4303 §2\.1", said, re.MULTILINE)
    assert re.search(r"^ +56  icmp\.type +8 ", said, re.MULTILINE)
    assert "\x1b" not in said


def test_dissect_capture(folder: Path) -> None:
    done = wesper("dissect", "plain.pcapng", "--json", folder=folder)
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    assert [packet["number"] for packet in found["packets"]] == [1, 2, 3]
    assert [packet["timestamp_ns"] for packet in found["packets"]] == [0, 10**9, 2 * 10**9]
    one = wesper("dissect", "plain.pcapng", "--count", "1", folder=folder).stdout.decode()
    assert one.startswith("Packet 1  1970-01-01 00:00:00.000000000 UTC  32 octets\n")
    assert "Packet 2" not in one
    assert json.loads(wesper("dissect", "plain.pcapng", "--json", "-c", "2", folder=folder).stdout)["packets"][1:]
    piped = wesper("dissect", "-", folder=folder, stdin=(folder / "plain.pcapng").read_bytes())
    assert piped.stdout.decode().count("Packet ") == 3


def test_dissect_bad_octets(folder: Path) -> None:
    done = wesper("dissect", "4500 0054 0000", folder=folder)
    assert (done.returncode, done.stderr) == (1, b"")
    said = done.stdout.decode().rstrip().split("\n")
    assert said[-1].strip() == "! ip: the packet ends in ip.flags.rb (0 of 1 octets)"
    assert any("ip.id " in line for line in said)
    ethernet = wesper("dissect", "00" * 12 + "0806" + "00" * 28, "--link", "ethernet", folder=folder)
    assert ethernet.returncode == 0
    assert b"eth.type" in ethernet.stdout


def test_dissect_diagram_and_meanings(folder: Path) -> None:
    said = wesper("dissect", PACKETS[1].hex(), "--diagram", folder=folder).stdout.decode()
    assert "|   4   |5 words| dscp = 0  | 0 |      ip.len = 32 octets       |" in said
    assert "|                      ip.src = 10.1.0.1                       |".replace(" ", "") in said.replace(" ", "")
    rows = [line for line in said.split("\n") if line.startswith(("|", "+"))]
    assert {len(line) for line in rows} == {65}
    said = wesper("dissect", PACKETS[1].hex(), "--meanings", folder=folder).stdout.decode()
    assert "differentiated services" in said


def on_a_terminal(*arguments: str, folder: Path, **environment: str) -> str:
    """What a command prints if its standard output and error are a terminal."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "wesper", *arguments], cwd=folder, stdout=slave, stderr=slave, env=env
    )
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 65536):
            parts.append(part)
    except OSError:
        pass  # Linux: the last writer has closed it
    os.close(master)
    assert process.wait(60) == 0
    return b"".join(parts).decode()


def test_colour_on_a_terminal_alone(folder: Path) -> None:
    arguments = ("dissect", PACKETS[0].hex())
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    assert "\x1b[" in on_a_terminal(*arguments, folder=folder, **environment, NO_COLOR="")
    quiet = on_a_terminal(*arguments, folder=folder, NO_COLOR="1")
    assert not re.search(r"\x1b\[3[0-9]", quiet)
    assert "icmp.type" in quiet


def test_reader_that_has_had_enough(folder: Path) -> None:
    (folder / "many.pcapng").write_bytes(captured(PACKETS * 2000))
    command = f"{sys.executable} -m wesper dissect many.pcapng | head -n 1"
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, timeout=60)
    assert done.stdout.startswith(b"Packet 1")
    assert done.stderr == b""


MEASURED = """
import sys
from wesper.cli import main
try:
    main(sys.argv[1:])
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


def peak_kib(arguments: list[str], mebibytes: int, folder: Path) -> int:
    """Peak memory of a command that reads a capture of so many MiB from a pipe."""
    packet = sealed(ipv4(bytes(1400)))
    record = pack("<IIII", 1, 0, len(packet), len(packet)) + packet
    block = record * ((1 << 20) // len(record))
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    stdin = process.stdin

    def feed() -> None:
        stdin.write(pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, LinkType.RAW))
        for _ in range(mebibytes):
            stdin.write(block)
        stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    said = process.stderr.read().decode()
    feeder.join()
    process.stderr.close()
    assert process.wait() == 0, said
    return int(said.split()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        "pcap info -",
        pytest.param("pcap decrypt - -o /dev/null --keys keys.toml --engine native", marks=pytest.mark.needs_native),
        pytest.param("pcap encrypt - -o /dev/null --keys keys.toml --engine native", marks=pytest.mark.needs_native),
    ],
    ids=lambda text: text.split()[1],
)
def test_memory_does_not_grow_with_the_capture(folder: Path, arguments: str) -> None:
    small, large = (peak_kib(arguments.split(), size, folder) for size in (32, 320))
    assert large < small + 16 * 1024, f"{small} KiB for 32 MiB, {large} KiB for 320 MiB"
