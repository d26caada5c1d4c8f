"""Hosts, routers and networks made on the spot, without privilege.

    from wesper.lab import Lab

    with Lab() as lab:
        a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
        lab.link(a, r)
        lab.link(r, b, mtu=1400, delay="10ms", loss="1%", seed=7)
        with r.capture("seen.pcapng"):
            print(a.ping(b, count=10))
            print(a.run(["ip", "route"]).stdout)
            print(a.call(os.listdir, "/proc/sys/net"))

`Lab` says what a link can do, `topologies` has labs ready-made, `impair` what happens to packets on the way.
"""

from .call import Call, CallDied
from .capture import CaptureFailed, LabCapture
from .client import LabGone
from .impair import Counters, Impairment, Wire
from .lab import Lab
from .link import Link
from .netlink import NetlinkError
from .node import Host, Interface, Node, Router
from .topologies import TOPOLOGIES, nat, pair, routed, third_host
from .topology_file import build_lab

__all__ = [
    "TOPOLOGIES",
    "Call",
    "CallDied",
    "CaptureFailed",
    "Counters",
    "Host",
    "Impairment",
    "Interface",
    "Lab",
    "LabCapture",
    "LabGone",
    "Link",
    "NetlinkError",
    "Node",
    "Router",
    "Wire",
    "build_lab",
    "nat",
    "pair",
    "routed",
    "third_host",
]
