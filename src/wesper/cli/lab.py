"""`wesper lab`: labs of hosts, routers and links, run and looked at."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..errors import ConfigError, WesperError
from ..lab.client import Client, running
from ..lab.impair import as_written
from ..lab.lab import Lab
from ..lab.link import ask_forwarder, both_ways
from ..lab.netlink import NETLINK_ROUTE, Netlink
from ..lab.topologies import TOPOLOGIES
from ..lab.topology_file import build_lab
from .packet_view import PIPED_COLUMNS

_Command = Annotated[str, Parameter(allow_leading_hyphen=True)]
_Json = Annotated[bool, Parameter(negative=(), show_default=False)]


def run(topology: str, /, *command: _Command, name: str | None = None) -> int:
    """Build a lab, run a command beside it, and take the lab away when the command ends.

    The command runs outside of the lab, with WESPER_LAB set to the lab's name, so that its `wesper lab exec` finds it.
    Without a command the lab stays until interrupted. Exits as the command does.

    Parameters
    ----------
    topology
        A TOML file, or one of pair, routed, third-host, nat.
    command
        Program and arguments, behind --.
    name
        Name of the lab; by default the file's, or the process id.
    """
    with _build(topology, name) as lab:
        if command:
            return _exit_code(subprocess.call(command, env={**os.environ, "WESPER_LAB": lab.name}))
        _print(lab.describe(), _counters(lab.client, lab.describe()))
        print(f"lab {lab.name} is up: `wesper lab exec HOST -- COMMAND`; ends with Ctrl-C", file=sys.stderr)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                signal.pause()
    return 0


def execute(host: str, /, *command: _Command, lab: str | None = None) -> int:
    """Run a command in a host of a running lab, on this terminal. Exits as the command does.

    Parameters
    ----------
    host
        A host or router.
    command
        Program and arguments, behind --; by default the shell.
    lab
        Which lab; by default that of WESPER_LAB, or the only one.
    """
    with Client.connect(lab) as client:
        try:
            namespace = client.namespace(host)
        except FileNotFoundError:
            nodes = ", ".join(node["name"] for node in client.description()["nodes"])
            raise ConfigError(f"there is no node {host} in lab {client.name}", key="host", expected=nodes) from None
        joined = client.command(namespace, list(command) or [os.environ.get("SHELL", "/bin/sh")], terminal=True)
        for descriptor in client.descriptors(namespace):
            os.set_inheritable(descriptor, True)
        os.execv(joined[0], joined)


def show(lab: str | None = None, /, *, json: _Json = False) -> int:
    """Show a running lab: nodes, addresses, routes, links, and what happened to packets on them.

    Parameters
    ----------
    lab
        Which lab; by default that of WESPER_LAB, or the only one.
    json
        Print one JSON object.
    """
    with Client.connect(lab) as client:
        description = client.description()
        counters = _counters(client, description)
    if json:
        for link in description["links"]:
            link["toward"] = counters.get(link["name"], {})
        print(json_module.dumps(description, indent=2))
    else:
        _print(description, counters)
    return 0


def list_(*, json: _Json = False) -> int:
    """List the labs that run.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    labs: list[dict[str, Any]] = []
    for name in running():
        # Another user's, or one that is being made or ending right now, is left out.
        with contextlib.suppress(WesperError), Client.connect(name) as client:
            labs.append(client.description())
    if json:
        rows = [
            {"name": lab["name"], "pid": lab["pid"], "nodes": len(lab["nodes"]), "links": len(lab["links"])}
            for lab in labs
        ]
        print(json_module.dumps({"schema": 1, "labs": rows}, indent=2))
        return 0
    for lab in labs:
        nodes = " ".join(node["name"] for node in lab["nodes"])
        print(f"{lab['name']}\tpid {lab['pid']}\t{nodes}")
    return 0


def set_(
    link: str,
    /,
    *,
    toward: str | None = None,
    loss: str | None = None,
    delay: str | None = None,
    jitter: str | None = None,
    reorder: str | None = None,
    duplicate: str | None = None,
    rate: str | None = None,
    queue: str | None = None,
    drop_above: str | None = None,
    lab: str | None = None,
) -> int:
    """Change what happens to packets on a link of a running lab; what is not named stays.

    Parameters
    ----------
    link
        Name of the link, as `wesper lab show` tells it.
    toward
        Only in the direction to this node.
    loss
        Share of packets that vanish, as 1%.
    delay
        Time to the other end, as 10ms.
    jitter
        How much the delay varies.
    reorder
        Share of packets that later ones overtake.
    duplicate
        Share of packets that come twice.
    rate
        Limit, as 100mbit.
    queue
        Octets that wait for the rate.
    drop_above
        Longer packets vanish.
    lab
        Which lab; by default that of WESPER_LAB, or the only one.
    """
    given = {
        "loss": loss, "delay": delay, "jitter": jitter, "reorder": reorder, "duplicate": duplicate, "rate": rate,
        "queue": queue, "drop_above": drop_above,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    with Client.connect(lab) as client:
        links = {each["name"]: each for each in client.description()["links"]}
        if link not in links:
            raise ConfigError(f"there is no link {link}", key="link", expected=", ".join(links))
        if not links[link]["forwarder"]:
            expected = "forwarder = true in the topology"
            raise ConfigError(f"link {link} is a plain veth pair", key="link", expected=expected)
        nodes = [end["node"] for end in links[link]["ends"]]
        if toward not in (None, *nodes):
            raise ConfigError(f"link {link} does not reach {toward}", key="toward", expected=" or ".join(nodes))
        ask_forwarder(client, links[link]["number"], {"set": changes, "toward": toward})
    return 0


def _build(topology: str, name: str | None) -> Lab:
    if topology in TOPOLOGIES:
        return TOPOLOGIES[topology](name)
    if not topology.endswith(".toml") and not Path(topology).exists():
        known = ", ".join(TOPOLOGIES)
        raise ConfigError(f"there is no topology {topology}", key="topology", expected=f"a TOML file, or {known}")
    return build_lab(Path(topology), name)


def _counters(client: Client, description: dict[str, Any]) -> dict[str, Any]:
    counters: dict[str, Any] = {}
    for link in description["links"]:
        if link["forwarder"]:
            counters[link["name"]] = ask_forwarder(client, link["number"], {})
        else:
            seen = {end["node"]: _statistics(client, end["node"], end["interface"]) for end in link["ends"]}
            counted = both_ways(seen)
            counters[link["name"]] = {toward: {"impairment": {}, "counters": each} for toward, each in counted.items()}
    return counters


def _statistics(client: Client, node: str, interface: str) -> dict[str, int]:
    netlink = Netlink(client.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
    try:
        return netlink.statistics(interface)
    finally:
        netlink.close()


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _print(description: dict[str, Any], counters: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS, highlight=False)
    nodes = Table(
        "node", "interface", "addresses", "link", "MTU", title=f"lab {description['name']}", title_justify="left"
    )
    for node in description["nodes"]:
        label = node["name"] if node["kind"] == "host" else f"{node['name']} ({node['kind']})"
        for place, each in enumerate(node["interfaces"] or [None]):
            cells = [each["name"], "\n".join(each["addresses"]), each["link"], str(each["mtu"])] if each else [""] * 4
            nodes.add_row(label if place == 0 else "", *cells)
    console.print(nodes)
    links = Table("link", "toward", "impairment", "received", "sent", "dropped or changed")
    for link in description["links"]:
        label = f"{link['name']}, masqueraded by {link['masquerade']}" if link["masquerade"] else link["name"]
        for toward, each in counters.get(link["name"], {}).items():
            counted = dict(each["counters"])
            received, sent = counted.pop("received"), counted.pop("sent")
            links.add_row(
                label,
                toward,
                "\n".join(as_written(each["impairment"])),
                str(received),
                str(sent),
                "\n".join(f"{key} {value}" for key, value in counted.items() if value),
            )
            label = ""
    console.print(links)
