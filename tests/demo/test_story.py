from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest

from wesper.bench.connections import Cost, Point
from wesper.demo.findings import Findings, Forged, Passage, Protected
from wesper.demo.opened import Opened, growth
from wesper.demo.story import alike, dump, duration, gigabits, lengths, page
from wesper.demo.traffic import MARKER, Bulk
from wesper.demo.wire import ARP, Seen, Shown, kinds_of
from wesper.engine import open_engine
from wesper.keying import StaticSA
from wesper.sa import SA, Direction, Outer, Profile, UDPEncapsulation
from wesper.verdict import Delivered, DropReason

STATIC = StaticSA("aes-gcm-16", 0x1000, bytes(16), b"salt")


def sealed(octets: int) -> bytes:
    engine = open_engine("reference")
    outer = Outer(ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    profile = Profile("aes-gcm-16", outer=outer, encapsulation=UDPEncapsulation())
    sa = engine.install(SA(profile, Direction.OUT, 0x1000, bytes(16), b"salt"))
    inner = b"\x45\0" + octets.to_bytes(2, "big") + bytes(4) + b"\x40\x11" + bytes(10) + bytes(octets - 20)
    verdict = engine.encapsulate(sa, inner, 0)
    assert isinstance(verdict, Delivered)
    return verdict.packet


def bulk(bps: float) -> Bulk:
    return Bulk(round(bps / 4), 2.0, True)


ESP, PSP, EESP = range(3)  # their places among the tunnels
FORGED = {
    "esp": [
        Forged("sent again as it was", DropReason.REPLAY, 50, 50),
        Forged("a number not used yet, and a bit flipped", DropReason.AUTH, 50, 50),
        Forged("cut short", DropReason.TRUNCATED, 50, 50),
    ],
    "psp": [Forged("a bit flipped", DropReason.PSP_AUTH, 50, 50)],
    "eesp": [Forged("another Session ID", DropReason.AUTH, 50, 50)],
}


def protected(protocol: str, bps: float) -> Protected:
    flow = {"eesp": 9}.get(protocol)
    shown = Counter[Shown]()
    for spi, name, count in ((1, flow, 500), (1, flow and 10, 300), (2, flow, 190)):
        shown[Shown(spi, 4500, name)] += count
    seen = Seen(Counter({kinds_of(protocol)[1]: 990, ARP: 2}), Counter(), 10**6, shown)
    opened = Opened(990, 0, 803, Counter(), [growth(STATIC, size, sealed(size)) for size in (46, 84, 540, 1328, 1400)])
    names = ["Session ID 9", "Session ID 10", "Session ID 9"] if flow else [""] * 3
    opened.flows = {(spi, bytes([place])): {names[place]} for place, spi in enumerate((1, 1, 2))}
    return Protected(
        protocol,
        "aes-gcm-16",
        1,
        Passage(seen, [0.0003 + place * 2e-6 for place in range(40)], (3, 3), bulk(bps), bulk(bps)),
        opened,
        FORGED[protocol],
        [0.0003] * 5,
        tshark=(990, 990) if protocol == "esp" else None,
        named=None if protocol == "esp" else {f"{protocol}.spi": 990, f"{protocol}.iv": 990},
        counted={9: 500, 10: 300} if flow else {0: 800},
    )


def findings() -> Findings:
    clear = Seen(Counter({"TCP": 900, "UDP": 3, "ICMP echo": 80, ARP: 2}), Counter({"TCP": 800, "UDP": 3}), 10**6)
    return Findings(
        Passage(clear, [0.0001 + place * 2e-6 for place in range(40)], (3, 3), bulk(8e9), bulk(8e9)),
        [protected("esp", 3e9), protected("psp", 2.9e9), protected("eesp", 2.8e9)],
        "native",
        about="wesper, Linux, two cores",
        files={"plain.pcapng": "what the router saw in the clear"},
    )


MESSAGES = {"in the clear": sealed(84)[:28] + MARKER * 3, "ESP": sealed(200), "EESP": sealed(208)}


def test_report_of_what_is_as_it_should_be() -> None:
    found = findings()
    assert [check.claim for check in found.checks() if not check.holds] == []
    html = page(found, MESSAGES, MARKER).html()
    assert "What went through tunnels crossed the router as ESP, PSP and EESP, and as nothing else" in html
    assert f"{len(found.checks())} of {len(found.checks())} claims hold" in html
    assert "tshark names every field of PSP and EESP" in html
    assert "DOES NOT HOLD" not in html
    assert html.count("<svg") == 5
    assert 'class="verdict good"' in html
    assert "2.9 Gbit/s" in html
    assert "2 of 2" in html, "flows that EESP's header tells apart"
    assert "800 in 2" in html, "packets and flows that an XDP program counted"


def test_report_shows_what_connections_cost_and_how_far_it_was_measured() -> None:
    found = findings()
    small, large = Cost(64, 0, [5e6], [5e6]), Cost(2**30, 3 * 2**30, [1e6], [5e5])
    found.points = [Point(1, small, small), Point(1_000_000, small, large)]
    html = page(found, MESSAGES, MARKER).html()
    assert "ESP receiver: 3 at 1,000,000" in html
    assert "Measured here, up to 1,000,000; wesper bench goes on to 10,000,000." in html
    found.points = [Point(10_000_000, small, large)]
    assert "Measured here" not in page(found, MESSAGES, MARKER).html()


def test_what_can_be_told_apart() -> None:
    esp, _, eesp = (each.told_apart for each in findings().tunnels)
    assert (esp.flows, esp.spis, esp.ports, esp.names, esp.most) == (2, 1, 1, None, 1)
    assert (eesp.flows, eesp.spis, eesp.ports, eesp.names, eesp.most) == (2, 1, 1, 2, 2)
    found = findings().tunnels[EESP]
    found.passage.seen.shown[Shown(1, 4500, 0)] = 1
    assert found.told_apart.names == 2, "a dummy is of no flow"


def test_report_lists_no_field_that_tshark_has_not_shown_in_every_packet() -> None:
    found = findings()
    found.tunnels[EESP].named = {"eesp.spi": 990, "eesp.iv": 989}
    assert ">eesp.spi</td>" in page(found, MESSAGES, MARKER).html()


def test_without_tshark_and_without_root_less_is_claimed() -> None:
    found = findings()
    for each in found.tunnels:
        each.tshark = each.named = each.counted = None
    assert len(found.checks()) == len(findings().checks()) - 3
    html = page(found, MESSAGES, MARKER).html()
    assert "tshark" not in html
    assert "XDP program" not in html


def set_passage(found: Findings, place: int, **changes: object) -> None:
    found.tunnels[place].passage = replace(found.tunnels[place].passage, **changes)


def name_all_alike(tunnel: Protected) -> None:
    """Have all flows go under Session ID 9."""
    shown = tunnel.passage.seen.shown
    shown[Shown(1, 4500, 9)] += shown.pop(Shown(1, 4500, 10))
    tunnel.counted = {9: 800}


def forge_fewer(found: Findings, place: int) -> None:
    forged = found.tunnels[place].forged
    found.tunnels[place].forged = [replace(forged[0], dropped=49), *forged[1:]]


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (lambda f: f.tunnels[ESP].passage.seen.frames.update({"TCP": 1}), "nothing but what a tunnel makes"),
        (lambda f: f.tunnels[PSP].passage.seen.frames.update({"ESP in UDP": 1}), "not so with PSP"),
        (lambda f: f.tunnels[EESP].passage.seen.frames.clear(), "each wire held"),
        (lambda f: f.tunnels[ESP].passage.seen.marked.update({"ESP in UDP": 1}), "nowhere"),
        (lambda f: f.clear.seen.marked.clear(), "read in the clear"),
        (lambda f: f.tunnels[ESP].opened.dropped.update([DropReason.AUTH]), "every packet opens: not so with ESP"),
        (lambda f: setattr(f.tunnels[PSP].opened, "opened", 989), "every packet opens: not so with PSP"),
        (lambda f: setattr(f.tunnels[PSP].opened, "marked", 0), "is inside: not so with PSP"),
        (lambda f: setattr(f.tunnels[ESP], "tshark", (990, 1)), "tshark opens"),
        (lambda f: f.tunnels[EESP].named.update({"eesp.iv": 989}), "tshark names every field of PSP and EESP"),
        (
            lambda f: f.tunnels[EESP].opened.flows.update({(1, b""): {"Session ID 9", "Session ID 10"}}),
            "keeps its name",
        ),
        (lambda f: f.tunnels[EESP].opened.flows.update({(1, b""): {""}}), "keeps its name"),
        (lambda f: name_all_alike(f.tunnels[EESP]), "keeps its name"),
        (lambda f: f.tunnels[EESP].counted.update({9: 499}), "XDP program"),
        (lambda f: setattr(f.tunnels[ESP], "afterwards", [None]), "still carries"),
        (lambda f: set_passage(f, ESP, datagrams=(3, 2)), "arrived whole: not so with ESP"),
        (
            lambda f: set_passage(f, EESP, stream=replace(f.clear.stream, whole=False)),
            "arrived whole: not so with EESP",
        ),
        (lambda f: set_passage(f, PSP, round_trips=[None]), "arrived whole: not so with PSP"),
        (lambda f: forge_fewer(f, ESP), "ESP, sent again as it was: dropped as replay"),
        (lambda f: forge_fewer(f, EESP), "EESP, another Session ID: dropped as auth"),
    ],
)
def test_report_says_so_when_a_claim_does_not_hold(change, claim: str) -> None:  # type: ignore[no-untyped-def]
    found = findings()
    change(found)
    wrong = [check.claim for check in found.checks() if not check.holds]
    assert len(wrong) == 1 or "every packet opens" in claim or "each wire" in claim
    assert any(claim in each for each in wrong)
    html = page(found, MESSAGES, MARKER).html()
    assert "DOES NOT HOLD" in html
    assert 'class="verdict bad"' in html
    assert "crossed the router as ESP" not in html


def test_dummies_of_the_tunnel_are_authentic_too() -> None:
    found = findings()
    esp = found.tunnels[ESP]
    esp.opened.opened, esp.opened.dummies, esp.tshark = 988, 2, (990, 988)
    assert all(check.holds for check in found.checks())
    assert "of 2,970 protected packets opened with the keys, 2 of them dummies" in page(found, MESSAGES, MARKER).html()


def test_growth_adds_up() -> None:
    for octets in (46, 84, 1399, 1400):
        outer = sealed(octets)
        found = growth(STATIC, octets, outer)
        assert found.outer == len(outer)
        assert octets + found.ip + found.udp + found.header + found.iv + found.trailer + found.icv == len(outer)
        assert (found.ip, found.udp, found.header, found.iv, found.icv) == (20, 8, 8, 8, 16)
        assert 2 <= found.trailer <= 5, "pad length, next header, and padding to a whole word"


def test_packets_that_every_tunnel_carried_are_compared() -> None:
    tunnels = findings().tunnels
    tunnels[PSP].opened.growth = tunnels[PSP].opened.growth[1:4]
    assert lengths(tunnels) == (84, 1328)
    assert [[growth.inner for growth in grown] for _, grown in alike(tunnels)] == [[84, 1328]] * 3
    tunnels[ESP].opened.growth = []
    assert lengths(tunnels) == (0, 0)
    assert alike(tunnels) == []


def test_dump_sets_the_marker_off() -> None:
    text = dump(bytes(20) + MARKER * 5, MARKER)
    assert re.search(r"^0010 .*  \.\.\.\.<mark>the quick br</mark>$", text, re.M)
    assert "octets more" in text
    assert "<mark>" not in dump(bytes(200), MARKER)
    assert "&lt;b&gt;" in dump(b"<b>", MARKER)


def test_numbers_for_people() -> None:
    assert (duration(0.000312), duration(0.0312), duration(None)) == ("312 µs", "31.2 ms", "none")
    assert (gigabits(4.831e9), gigabits(52.3e6)) == ("4.83 Gbit/s", "52.3 Mbit/s")
