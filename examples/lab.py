"""Two hosts, a router between them, a bad link, and what an eavesdropper on the router sees. No privilege needed."""

import tempfile
from pathlib import Path

from wesper.lab import Lab
from wesper.pcap import open_capture

SECRET = b"the quick brown fox"


def listen(sock):
    """Run inside host b: count what arrives until the word to stop."""
    count = 0
    while sock.recv(1500) != b"stop":
        count += 1
    return count


def main(folder: Path) -> None:
    """Build the lab, talk, and look at the capture."""
    with Lab() as lab:
        a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
        lab.link(a, r)
        bad = lab.link(r, b, mtu=1400, delay="5ms", loss="10%", seed=7)

        print(
            "round trips in ms:",
            *(f"{each * 1000:.0f}" if each else "lost" for each in a.ping(b, count=5, timeout=0.2)),
        )
        print("route of a:", a.run(["cat", "/proc/net/route"]).stdout.splitlines()[-1].split()[:3])

        with r.capture(folder / "seen.pcapng") as capture, a.socket() as sock, b.socket() as server:
            server.bind((b.address, 5000))
            counting = b.start(listen, server)
            for _ in range(100):
                sock.sendto(SECRET, (b.address, 5000))
            bad.set(loss=None)
            sock.sendto(b"stop", (b.address, 5000))
            print(
                f"b received {counting.result(timeout=10)} of 100, {bad.counters()['b']['lost']} were lost on the way"
            )

    with open_capture(folder / "seen.pcapng") as packets:
        marked = sum(SECRET in packet.data for packet in packets)
    print(f"the router saw {capture.packets} packets, {marked} with the secret in the clear")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
