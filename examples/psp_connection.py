"""Two hosts of a lab, a PSP daemon on each: datagrams between programs, keys by the exchange, rotations meanwhile."""

import asyncio
import sys
import tempfile
from pathlib import Path

from wesper import psp
from wesper.lab import Lab
from wesper.psp import blocking, identity

FILE = """
[host]
certificate = "{name}.crt"
key = "{name}.key"
port = 4100
control_port = 4101
socket = "{name}.sock"
[[peer]]
name = "{peer}"
fingerprint = "{fingerprint}"
address = "{address}"
control_port = 4101
"""


async def talk(folder: Path, server: str) -> None:
    """Listen in one host and connect from the other; any process of theirs could."""
    async with (
        await psp.listen(7000, via=folder / "right.sock") as listener,
        await psp.connect(server, 7000, via=folder / "left.sock") as ours,
        await listener.accept() as theirs,
    ):
        print(f"{theirs.identity} has connected; a datagram of {ours.most} octets fits the path")
        for word in (b"one", b"two"):
            await ours.send(word)
            print("received", await theirs.receive())
            print("generation", blocking.ask("rotate", folder / "right.sock")["generation"])


def main(folder: Path) -> None:
    """Make two hosts that have pinned each other, start their daemons, talk."""
    with Lab() as lab:
        nodes = {"left": lab.host("left"), "right": lab.host("right")}
        lab.link(nodes["left"], nodes["right"])
        prints = {name: identity.written(identity.make(name, folder)[2]) for name in nodes}
        for name, peer in (("left", "right"), ("right", "left")):
            file, there = folder / f"{name}.toml", nodes[peer].address
            file.write_text(FILE.format(name=name, peer=peer, fingerprint=prints[peer], address=there))
            print(nodes[name].run([sys.executable, "-m", "wesper", "psp", "up", file]).stdout.split(",")[0])
        asyncio.run(talk(folder, str(nodes["right"].address)))
        for name in nodes:
            blocking.ask("down", folder / f"{name}.sock")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
