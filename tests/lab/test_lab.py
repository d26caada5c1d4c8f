"""Labs of real network namespaces: packets cross them as asked."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from wesper.errors import ConfigError
from wesper.lab import CallDied, CaptureFailed, Impairment, Lab, LabGone, Node, Wire, nat, pair, routed, third_host
from wesper.lab.client import running
from wesper.pcap import open_capture
from wesper.protocols.ip import checksum, parse, pseudo_header

pytestmark = pytest.mark.usefixtures("namespaces")
Eventually = Callable[[Callable[[], object]], None]
IP_MTU, UDP_SEGMENT = 14, 103
QUIET = ["10.9.0.0/24"]
"""Without IPv6, so that the kernel has no multicast messages of its own that would be counted."""


def receiver(node: Node) -> socket.socket:
    sock = node.socket()
    sock.bind((node.address, 0))
    sock.settimeout(20)
    return sock


def sink(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    digest = hashlib.sha256()
    with connection:
        while data := connection.recv(1 << 16):
            digest.update(data)
        connection.sendall(digest.digest())
    return digest.digest()


def transfer(a: Node, b: Node, octets: int, family: int = socket.AF_INET) -> bool:
    """Send octets over TCP from a to b; tell whether b had the same."""
    data = random.Random(1).randbytes(octets)
    with b.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((b.address if family == socket.AF_INET else b.address6, 0))
        listener.listen()
        server = b.start(sink, listener)
        with a.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(listener.getsockname())
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            said = client.recv(32)
        return said == server.result(30) == hashlib.sha256(data).digest()


def test_hosts_ping_over_a_router_by_both_families() -> None:
    with routed() as lab:
        a, r, b = lab
        for version in (4, 6):
            assert all(a.ping(b, count=3, version=version))
            assert all(b.ping(a, count=3, version=version))
            assert all(r.ping(a, version=version))


def test_nothing_of_the_machine_is_seen_or_touched() -> None:
    before = Path("/proc/net/route").read_text(), socket.if_nameindex()
    with pair() as lab:
        a, b = lab
        assert a.call(socket.if_nameindex) == [(1, "lo"), *a.call(socket.if_nameindex)[1:]]
        assert [name for _, name in b.call(socket.if_nameindex)] == ["lo", "eth0"]
        assert (Path("/proc/net/route").read_text(), socket.if_nameindex()) == before
    assert (Path("/proc/net/route").read_text(), socket.if_nameindex()) == before


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_tcp_crosses_a_plain_link_whole(family: int) -> None:
    with routed() as lab:
        a, _, b = lab
        assert transfer(a, b, 5_000_000, family)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_tcp_crosses_a_bad_link_whole(family: int) -> None:
    bad = {"loss": "1%", "delay": "1ms", "jitter": "500us", "reorder": "1%", "duplicate": "1%", "seed": 5}
    with pair(**bad) as lab:
        a, b = lab
        assert transfer(a, b, 1_000_000, family)
        counters = lab.links["a-b"].counters()["b"]
        assert counters["lost"] > 0
        assert counters["reordered"] > 0
        assert counters["duplicated"] > 0
        assert counters["overrun"] == counters["not_sent"] == 0


def test_fate_of_every_packet_is_that_of_the_model(eventually: Eventually) -> None:
    with Lab(seed="lab") as lab:
        a, b = lab.host("a"), lab.host("b")
        link = lab.link(a, b, networks=QUIET, loss="30%", duplicate="10%", seed=11)
        model = Wire(Impairment.of(loss="30%", duplicate="10%"), "11 a-b toward 1")
        expected = []
        with receiver(b) as here, a.socket() as there:
            for number in range(150):
                there.sendto(bytes([number]), here.getsockname())
                model.receive(bytes(60), 0)
                while model.poll_transmit(0) is not None:
                    expected.append(number)
            eventually(lambda: link.counters()["b"]["received"] == 150)
            assert [here.recv(10)[0] for _ in expected] == expected
            here.setblocking(False)
            with pytest.raises(BlockingIOError):
                here.recv(10)
        counters = link.counters()["b"]
        assert {key: counters[key] for key in ("sent", "lost", "duplicated")} == {
            "sent": model.counters.sent,
            "lost": model.counters.lost,
            "duplicated": model.counters.duplicated,
        }


def test_links_of_one_lab_seed_differ_and_directions_do(eventually: Eventually) -> None:
    with Lab(seed=3) as lab:
        a, b = lab.host("a"), lab.host("b")
        links = [lab.link(a, b, networks=[f"10.9.{number}.0/24"], loss="50%") for number in range(2)]
        got = []
        for link in links:
            here, there = link.end(a), link.end(b)
            for source, target in ((here, there), (there, here)):
                with target.node.socket() as receiving, source.node.socket() as sending:
                    receiving.bind((target.address(), 0))
                    for number in range(64):
                        sending.sendto(bytes([number]), receiving.getsockname())
                    counters = link.counters
                    eventually(lambda c=counters, t=target: c()[t.node.name]["received"] == 64)
                    sent = counters()[target.node.name]["sent"]
                    receiving.settimeout(20)
                    got.append(tuple(receiving.recv(1)[0] for _ in range(sent)))
        assert len(set(got)) == 4


def test_mtu_is_honoured_and_told() -> None:
    with Lab() as lab:
        a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
        lab.link(a, r, mtu=1500)
        lab.link(r, b, mtu=1400)
        assert a.ping(b, octets=1500 - 28 + 1, fragment=False) == [None]  # refused by a itself
        assert all(a.ping(b, octets=1400 - 28, fragment=False))
        for version, header in ((4, 28), (6, 48)):
            # The first one too big brings an ICMP error back, and is lost.
            assert a.ping(b, octets=1400 - header + 1, version=version, fragment=False, timeout=1) == [None]
            assert all(a.ping(b, octets=1400 - header + 1, version=version))
        with a.socket() as sock:
            sock.connect((b.address, 9))
            assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1400
        assert transfer(a, b, 200_000)


def test_a_link_that_swallows_big_packets_tells_nobody() -> None:
    with pair(drop_above=1200) as lab:
        a, b = lab
        assert all(a.ping(b, octets=1200 - 28, fragment=False))
        assert a.ping(b, octets=1200 - 28 + 1, fragment=False, timeout=0.2) == [None]
        assert lab.links["a-b"].counters()["b"]["too_big"] == 1


def test_rate_fills_the_queue_and_drops_what_is_more(eventually: Eventually) -> None:
    with pair(rate="1mbit", queue="10kB") as lab:
        a, b = lab
        link = lab.links["a-b"]
        with a.socket() as sock:
            for _ in range(100):
                sock.sendto(bytes(1000), (b.address, 9))
        eventually(lambda: link.counters()["b"]["received"] >= 100 and not link.counters()["b"]["waiting"])
        counters = link.counters()["b"]
        assert counters["sent"] + counters["queue_full"] == counters["received"]
        assert counters["sent"] >= 10
        assert counters["queue_full"] > 0


def test_impairment_changes_at_run_time_in_one_direction() -> None:
    with pair(forwarder=True, networks=QUIET) as lab:
        a, b = lab
        link = lab.links["a-b"]
        assert all(a.ping(b, count=2))
        link.set(loss="100%", toward=b)
        assert a.ping(b, timeout=0.1) == [None]
        counters = link.counters()
        assert counters["b"]["lost"] == 1
        assert counters["a"]["lost"] == 0
        link.set(loss=None)
        assert all(a.ping(b))
        with pytest.raises(ConfigError, match="more than the delay"):
            link.set(jitter="1ms")
        with pytest.raises(ConfigError, match="unknown"):
            link.set(lose=1)
        with pytest.raises(ConfigError, match="does not reach"):
            link.set(loss=1, toward="c")


def test_a_plain_link_can_not_be_impaired() -> None:
    with pair() as lab, pytest.raises(ConfigError, match="plain veth pair"):
        lab.links["a-b"].set(loss="1%")


@pytest.mark.parametrize("forwarder", [False, True])
def test_a_link_goes_down_and_comes_back(forwarder: bool, eventually: Eventually) -> None:
    with Lab() as lab:
        a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
        lab.link(a, r)
        link = lab.link(r, b, forwarder=forwarder)
        assert all(a.ping(b))
        link.down()
        assert a.ping(b, timeout=0.1) == [None]
        assert a.ping(b, version=6, timeout=0.1) == [None]
        link.up()
        for version in (4, 6):
            eventually(lambda version=version: a.ping(b, version=version, timeout=0.5)[0])
            assert all(b.ping(a, version=version))


def test_an_address_changes() -> None:
    with routed() as lab:
        a, _, b = lab
        old = b.address
        end = b.interfaces[0]
        end.add_address("10.0.2.77/24")
        assert all(a.ping("10.0.2.77"))
        end.remove_address(f"{old}/24")
        assert a.ping(old, timeout=0.1) == [None]
        assert b.address == "10.0.2.77"
        for wrong in (old, "10.0.2"):
            with pytest.raises(ConfigError):
                end.remove_address(wrong)
        assert all(a.ping("10.0.2.77"))


def test_addresses_and_networks_given() -> None:
    with Lab() as lab:
        a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
        lab.link(a, r, networks=["192.0.2.0/30", "2001:db8::/127"])
        lab.link("r", "b", addresses={"r": ["198.51.100.9/24"], "b": ["198.51.100.7/24"]})
        assert (a.address, a.address6, b.address) == ("192.0.2.1", "2001:db8::", "198.51.100.7")
        assert all(r.ping(a, version=6))
        assert all(a.ping("198.51.100.7"))


def test_a_nat_hides_who_is_behind_it_and_forgets() -> None:
    with nat(random_ports=True) as lab:
        a, n, b = lab
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            with b.socket(family) as outside, a.socket(family) as inside:
                outside.bind((b.interfaces[0].address(version), 0))
                outside.settimeout(20)
                inside.settimeout(20)
                ports = set()
                for _ in range(4):
                    inside.sendto(b"out", outside.getsockname()[:2])
                    _, (address, port, *_) = outside.recvfrom(10)
                    assert address == n.interface("n-b").address(version)
                    outside.sendto(b"back", (address, port))
                    assert inside.recv(10) == b"back"
                    ports.add(port)
                    n.forget_flows()
                assert len(ports) > 1
        assert b.ping(a, timeout=0.1) == [None]
        assert all(a.ping(b))


def test_third_host_reaches_both() -> None:
    with third_host(loss=0) as lab:
        c = lab["c"]
        assert all(c.ping(lab["a"]))
        assert all(c.ping(lab["b"]))


def test_capture_of_a_router_has_every_packet_on_each_interface(tmp_path: Path) -> None:
    path = tmp_path / "seen.pcapng"
    with routed() as lab:
        a, r, b = lab
        with r.capture(path) as running_capture:
            assert all(a.ping(b, count=10))
            assert transfer(a, b, 100_000)
    with open_capture(path) as capture:
        pings = [[0, 0], [0, 0]]
        total = 0
        for record in capture:
            total += 1
            datagram = parse(record.data[14:])
            if datagram is None or datagram.version != 4:
                continue
            segment = datagram.packet[datagram.upper_at :]
            if datagram.upper == 1:
                pings[record.interface][segment[0] == 0] += 1
            elif datagram.upper == 6:  # the kernel left the sum to a card that is not there
                pseudo = pseudo_header(datagram.header.source, datagram.header.destination, 6, len(segment))
                assert checksum(pseudo + segment) == 0
        assert [each.name for each in capture.interfaces] == ["r/eth0", "r/eth1"]
    assert pings == [[10, 10], [10, 10]]
    assert (running_capture.packets, running_capture.overrun) == (total, 0)


def test_capture_of_a_bad_link_shows_what_left_and_what_arrived(tmp_path: Path, eventually: Eventually) -> None:
    path = tmp_path / "link.pcapng"
    with pair(loss="40%", seed=2, networks=QUIET) as lab:
        a, b = lab
        link = lab.links["a-b"]
        with link.capture(path, snap=100) as running_capture, a.socket() as sock:
            for _ in range(100):
                sock.sendto(bytes(500), (b.address, 9))
            eventually(lambda: sum(link.counters()["b"][key] for key in ("sent", "lost")) >= 100)
        lost = link.counters()["b"]["lost"]
    with open_capture(path) as capture:
        kept = ((each.interface, each.original_octets, len(each.data)) for each in capture)
        sizes = [each for each in kept if each[1] == 542]
    assert sizes.count((0, 542, 100)) == 100
    assert sizes.count((1, 542, 100)) == 100 - lost
    assert running_capture.overrun == 0


def test_capture_that_can_not_be_written_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pair() as lab, pytest.raises(CaptureFailed):
        lab["a"].capture(tmp_path / "no" / "such" / "folder.pcapng")
    assert "wesper: " in capfd.readouterr().err


def test_offloads_are_off_where_asked_and_super_packets_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcapng"
    with pair(offloads=False) as lab:
        a, b = lab
        with lab.links["a-b"].capture(path):
            assert transfer(a, b, 200_000)
            with receiver(b) as here, a.socket() as there:
                there.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
                there.sendto(bytes(5000), here.getsockname())
                assert [len(here.recv(2000)) for _ in range(5)] == [1000] * 5
    with open_capture(path) as capture:
        longest = max(record.original_octets for record in capture)
    assert longest == 1514


def test_programs_run_inside_and_say_how_they_ended() -> None:
    with pair() as lab:
        a, b = lab
        done = a.run(["sh", "-c", "cat; echo err >&2; grep -c : /proc/net/dev"], input="in\n")
        assert (done.stdout, done.stderr) == ("in\n2\n", "err\n")
        with pytest.raises(subprocess.CalledProcessError) as caught:
            a.run(["sh", "-c", "echo because >&2; exit 3"])
        assert caught.value.returncode == 3
        assert caught.value.__notes__ == ["because"]
        assert a.run(["sh", "-c", "kill -TERM $$"], check=False).returncode == -15
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            a.run(["no-such-program"])
        with b.spawn(
            ["sh", "-c", 'trap "exit 5" TERM; echo ready; while :; do sleep 0.01; done'], stdout=-1
        ) as process:
            assert process.stdout.readline() == b"ready\n"
            process.terminate()
            assert process.wait(20) == 5
        counting = "trap 'echo came' INT; echo ready; while read line; do :; done; while read line; do :; done"
        with b.spawn(["sh", "-c", counting], stdin=-1, stdout=-1) as process:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == b"came\n"
            process.kill()
        with b.spawn(["sh", "-c", "echo said; exec >&-; exec sleep 1000"], stdout=-1) as process:
            assert process.stdout.read() == b"said\n"  # the program has closed it, nobody else keeps it open
            process.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            a.run(["sleep", "1000"], timeout=0.1)


def test_functions_run_inside_and_come_back() -> None:
    with pair() as lab:
        a, b = lab
        local = {"value": 1}

        def change() -> dict[str, int]:
            local["value"] = 2
            return local

        assert a.call(change) == {"value": 2}
        assert local == {"value": 1}
        with pytest.raises(ZeroDivisionError) as caught:
            a.call(lambda: 1 // 0)
        assert "In the host" in caught.value.__notes__[0]
        with pytest.raises(CallDied, match="exit code 3"):
            a.call(os._exit, 3)
        with pytest.raises(TypeError, match="brought back"):
            a.call(lambda: lambda: 0)
        with pytest.raises(TimeoutError):
            a.call(signal.pause, timeout=0.1)
        assert len(a.call(os.urandom, 1 << 20)) == 1 << 20
        calls = [node.start(socket.gethostname) for node in (a, b)]
        assert [call.result(20) for call in calls] == [socket.gethostname()] * 2


def test_raw_and_packet_sockets_need_no_privilege() -> None:
    with pair() as lab:
        a, b = lab
        with b.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as here:
            here.settimeout(20)
            with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as there:
                there.bind(("eth0", 0))
                frame = b.interfaces[0].mac + a.interfaces[0].mac + struct.pack(">H", 0x88B5) + b"experimental"
                there.send(frame)
            assert here.recv(2000)[: len(frame)] == frame


def test_vlan_tags_cross_a_forwarder() -> None:
    with pair(forwarder=True) as lab:
        a, b = lab
        with b.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as here:
            here.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the tag comes beside the frame
            here.settimeout(20)
            with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as there:
                there.bind(("eth0", 0))
                macs = b.interfaces[0].mac + a.interfaces[0].mac
                there.send(macs + struct.pack(">HHH", 0x8100, 42, 0x88B5) + bytes(46))
            while True:
                data, ancillary, _, _ = here.recvmsg(2000, 100)
                if data[12:14] == b"\x88\xb5":
                    break
            assert struct.unpack_from("IIIHHHH", ancillary[0][2])[5] == 42  # struct tpacket_auxdata: tp_vlan_tci


def test_names_are_checked_and_errors_leave_nothing(name: str) -> None:
    with Lab(name) as lab:
        a, b = lab.host("a"), lab.host("b")
        assert name in running()
        for wrong, match in (
            (lambda: Lab(name), f"lab {name} already"),
            (lambda: Lab("no/name"), "no name"),
            (lambda: lab.host("a"), "node a already"),
            (lambda: lab.host("~wire"), "no name"),
            (lambda: lab["c"], "no node c"),
            (lambda: lab.link(a, a), "two nodes"),
            (lambda: lab.link(a, "c"), "no node c"),
            (lambda: lab.link(a, b, mtu=10), "no MTU"),
            (lambda: lab.link(a, b, loss="2"), "not understood"),
            (lambda: lab.link(a, b, loss="1%", forwarder=False), "forwarder alone"),
            (lambda: lab.link(a, b, loss="1%", offloads=True), "one by one"),
            (lambda: lab.link(a, b, networks=["10.0.0.0/33"]), "10.0.0.0/33"),
            (lambda: lab.link(a, b, addresses={"a": ["10.0.0"]}), "10.0.0"),
            (lambda: lab.link(a, b, addresses={"c": []}), "not at this link"),
            (lambda: a.address, "no link yet"),
        ):
            with pytest.raises(ConfigError, match=match):
                wrong()
        assert not lab.links
        lab.link(a, b)
        assert all(a.ping(b))
    assert name not in running()


def test_a_closed_lab_says_so_and_closes_twice() -> None:
    lab = pair()
    a = lab["a"]
    lab.close()
    lab.close()
    with pytest.raises(LabGone):
        a.socket()
