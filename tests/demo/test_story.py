from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest

from wesper.bench.connections import Cost, Point
from wesper.demo.findings import Findings, Forged, Passage, PSPFindings
from wesper.demo.opened import Opened, growth
from wesper.demo.story import chosen, dump, duration, gigabits, page
from wesper.demo.traffic import MARKER, Bulk
from wesper.demo.wire import ARP, ESP_IN_UDP, PSP, Seen
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
    tenth = round(bps / 80)
    return Bulk(20 * tenth, 2.0, [(place / 10, tenth + place * tenth // 200) for place in range(1, 21)], True)


def findings() -> Findings:
    clear = Seen(Counter({"TCP": 900, "UDP": 3, "ICMP echo": 80, ARP: 2}), Counter({"TCP": 800, "UDP": 3}), 10**6)
    tunnel = Seen(Counter({ESP_IN_UDP: 990, ARP: 2}), Counter(), 10**6)
    return Findings(
        Passage(clear, [0.0001 + place * 2e-6 for place in range(40)], (3, 3), bulk(8e9), bulk(8e9)),
        Passage(tunnel, [0.0003 + place * 2e-6 for place in range(40)], (3, 3), bulk(3e9), bulk(3e9)),
        Opened(990, 0, 803, Counter(), [growth(STATIC, size, sealed(size)) for size in (46, 84, 540, 1328, 1400)]),
        (990, 990),
        [
            Forged("sent again as it was", DropReason.REPLAY, 50, 50),
            Forged("a number not used yet, and a bit flipped", DropReason.AUTH, 50, 50),
            Forged("an SPI that nobody has", DropReason.NO_SA, 50, 50),
            Forged("cut short", DropReason.TRUNCATED, 50, 50),
        ],
        [0.0003] * 5,
        "aes-gcm-16",
        "native",
        about="wesper, Linux, two cores",
        files={"plain.pcapng": "what the router saw in the clear"},
    )


def with_psp() -> Findings:
    found = findings()
    seen = Seen(Counter({PSP: 995, ARP: 2}), Counter(), 10**6)
    found.psp = PSPFindings(
        Passage(seen, [0.0003 + place * 2e-6 for place in range(40)], (3, 3), bulk(2.9e9), bulk(2.9e9)),
        Opened(993, 2, 803, Counter(), [growth(STATIC, size, sealed(size)) for size in (46, 84, 540, 1328, 1400)]),
        [Forged("a bit flipped", DropReason.PSP_AUTH, 50, 50)],
        [0.0003] * 5,
        "PSP, AES-128-GCM",
    )
    return found


MESSAGE = (sealed(84)[:28] + MARKER * 3, sealed(200))


def test_report_of_what_is_as_it_should_be() -> None:
    found = findings()
    assert [check.claim for check in found.checks() if not check.holds] == []
    html = page(found, MESSAGE, MARKER).html()
    assert "Everything between the hosts crossed the router as ESP" in html
    assert f"{len(found.checks())} of {len(found.checks())} claims hold" in html
    assert "DOES NOT HOLD" not in html
    assert html.count("<svg") == 5
    assert 'class="verdict good"' in html


def test_report_shows_psp_beside_esp() -> None:
    found = with_psp()
    assert [check.claim for check in found.checks() if not check.holds] == []
    assert len(found.checks()) == len(findings().checks()) + 7
    html = page(found, (*MESSAGE, sealed(180)), MARKER).html()
    assert "as ESP, and then as PSP" in html
    assert "PSP, AES-128-GCM" in html
    assert "in the PSP tunnel" in html
    assert "2.9 Gbit/s" in html
    assert "The packet in the PSP tunnel that carried as much" in html
    assert 'class="line psp"' in html


def test_report_shows_what_connections_cost_and_how_far_it_was_measured() -> None:
    found = with_psp()
    small, large = Cost(64, 0, [5e6], [5e6]), Cost(2**30, 3 * 2**30, [1e6], [5e5])
    found.points = [Point(1, small, small), Point(1_000_000, small, large)]
    html = page(found, (*MESSAGE, sealed(180)), MARKER).html()
    assert "ESP receiver: 3 at 1,000,000" in html
    assert "Measured here, up to 1,000,000; wesper bench goes on to 10,000,000." in html
    found.points = [Point(10_000_000, small, large)]
    assert "Measured here" not in page(found, (*MESSAGE, sealed(180)), MARKER).html()


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (lambda f: f.psp.tunnel.seen.frames.update({ESP_IN_UDP: 1}), "held PSP"),
        (lambda f: f.psp.tunnel.seen.frames.update({"TCP": 1}), "held PSP"),
        (lambda f: f.psp.tunnel.seen.frames.pop(PSP), "held PSP"),
        (lambda f: f.psp.tunnel.seen.marked.update({PSP: 1}), "in that either"),
        (lambda f: f.psp.opened.dropped.update([DropReason.PSP_AUTH]), "every PSP packet opens"),
        (lambda f: setattr(f.psp.opened, "opened", 9), "every PSP packet opens"),
        (lambda f: setattr(f.psp.opened, "marked", 0), "inside those"),
        (lambda f: setattr(f, "psp", replace(f.psp, afterwards=[None])), "PSP tunnel still carries"),
        (lambda f: setattr(f, "psp", replace(f.psp, forged=[replace(f.psp.forged[0], dropped=1)])), "PSP, a bit"),
        (
            lambda f: setattr(f, "psp", replace(f.psp, tunnel=replace(f.psp.tunnel, datagrams=(3, 2)))),
            "through the PSP",
        ),
    ],
)
def test_report_says_so_when_a_claim_about_psp_does_not_hold(change, claim: str) -> None:  # type: ignore[no-untyped-def]
    found = with_psp()
    change(found)
    assert any(claim in each.claim for each in found.checks() if not each.holds)
    assert "DOES NOT HOLD" in page(found, MESSAGE, MARKER).html()


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (lambda f: f.tunnel.seen.frames.update({"TCP": 1}), "nothing but"),
        (lambda f: f.tunnel.seen.marked.update({ESP_IN_UDP: 1}), "nowhere"),
        (lambda f: f.clear.seen.marked.clear(), "read in the clear"),
        (lambda f: f.opened.dropped.update([DropReason.AUTH]), "opens"),
        (lambda f: setattr(f.opened, "opened", 989), "opens"),
        (lambda f: setattr(f.opened, "marked", 0), "is inside"),
        (lambda f: setattr(f, "tshark", (990, 1)), "tshark"),
        (lambda f: setattr(f, "afterwards", [None]), "still carries"),
        (lambda f: setattr(f, "tunnel", replace(f.tunnel, datagrams=(3, 2))), "arrived whole"),
        (lambda f: setattr(f, "tunnel", replace(f.tunnel, stream=replace(f.tunnel.stream, whole=False))), "arrived"),
        (lambda f: setattr(f, "tunnel", replace(f.tunnel, round_trips=[None])), "arrived"),
        (lambda f: setattr(f, "forged", [replace(f.forged[0], dropped=49)]), "dropped as replay"),
    ],
)
def test_report_says_so_when_a_claim_does_not_hold(change, claim: str) -> None:  # type: ignore[no-untyped-def]
    found = findings()
    change(found)
    wrong = [check.claim for check in found.checks() if not check.holds]
    assert any(claim in each for each in wrong)
    html = page(found, MESSAGE, MARKER).html()
    assert "DOES NOT HOLD" in html
    assert 'class="verdict bad"' in html
    assert "crossed the router as ESP" not in html


def test_dummies_of_the_tunnel_are_authentic_too() -> None:
    found = findings()
    found.opened.opened, found.opened.dummies, found.tshark = 988, 2, (990, 988)
    assert all(check.holds for check in found.checks())
    assert "of 990 ESP packets opened with the keys, 2 of them dummies" in page(found, MESSAGE, MARKER).html()


def test_growth_adds_up() -> None:
    for octets in (46, 84, 1399, 1400):
        outer = sealed(octets)
        found = growth(STATIC, octets, outer)
        assert found.outer == len(outer)
        assert octets + found.ip + found.udp + found.esp + found.iv + found.trailer + found.icv == len(outer)
        assert (found.ip, found.udp, found.esp, found.iv, found.icv) == (20, 8, 8, 8, 16)
        assert 2 <= found.trailer <= 5, "pad length, next header, and padding to a whole word"


def test_a_plot_shows_the_smallest_and_the_largest() -> None:
    grown = [growth(STATIC, size, sealed(size)) for size in range(40, 60)]
    assert [each.inner for each in chosen(grown)] == [40, 46, 53, 59]
    assert chosen(grown[:3]) == grown[:3]


def test_dump_sets_the_marker_off() -> None:
    text = dump(bytes(20) + MARKER * 5, MARKER)
    assert re.search(r"^0010 .*  \.\.\.\.<mark>the quick br</mark>$", text, re.M)
    assert "octets more" in text
    assert "<mark>" not in dump(bytes(200), MARKER)
    assert "&lt;b&gt;" in dump(b"<b>", MARKER)


def test_numbers_for_people() -> None:
    assert (duration(0.000312), duration(0.0312), duration(None)) == ("312 µs", "31.2 ms", "none")
    assert (gigabits(4.831e9), gigabits(52.3e6)) == ("4.83 Gbit/s", "52.3 Mbit/s")
