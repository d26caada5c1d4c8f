"""What a tunnel file means: every setting, given or by default, and what `wesper up` will do on this host."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from ..host.link import local_address, path_mtu
from ..protocols.ip import IPAddress
from ..sa import Direction
from .carrier import open_carrier
from .control import SCHEMA
from .family_settings import FAMILY_TABLES
from .file import TunnelFile, TunnelSettings
from .loop import now_ns
from .psp_settings import ESP_ONLY, PORTS
from .routes import Plan, plan

_NAMES = {"esp": "ESP", "wesp": "WESP", "wespv2": "WESPv2", "eesp": "EESP", "psp": "PSP"}
_FILLED_IN: dict[str, Callable[[TunnelFile], str]] = {
    "interface.name": lambda file: file.name,
    "interface.state_dir": lambda file: str(file.state_dir),
    "interface.run_dir": lambda file: str(file.run_dir),
}


def steps(file: TunnelFile) -> list[str]:
    """Return what `wesper up` would do, one sentence a step.   Raises ConfigError for what this host rules out."""
    network = plan(file.name, file.addresses, file.tunnels)
    found = []
    for each in file.tunnels:
        around = each.encapsulation
        port = f" port {around.local_port}" if around is not None else ""
        kind = _NAMES[each.protocol] if around is None or each.psp is not None else "UDP"
        found.append(f"listen: {kind} on {_any(each.local)}{port}, for tunnel {each.name}")
        if each.psp is not None:
            ports = len(each.psp.source_ports) or PORTS
            found.append(f"send: from {ports} UDP ports of {_any(each.local)}, chosen by the inner flow")
    mtu = file.mtu or min(_inner_mtu(file, each, network) for each in file.tunnels)
    file.check_mtu(mtu)
    found = list(dict.fromkeys(found))
    found.append(f"make the interface {file.name}: {file.kind}, MTU {mtu}")
    found += network.described()
    found.append(f"keep numbers in {file.state_dir}/{file.name}.state, listen at {file.run_dir}/{file.name}.sock")
    return found


def as_text(file: TunnelFile) -> str:
    """Return the whole explanation: a tunnel file with every default, and comments."""
    lines = [f"# {file.path}, with every default", ""]
    lines += _tables(file)
    lines += ["", "# wesper up will:"]
    lines += [f"#   {step}" for step in steps(file)]
    lines += [
        "#",
        "# What is not routed to the interface passes unprotected (BYPASS). To let some of what is routed there",
    ]
    lines += ["# pass as well, give it a route of its own:"]
    lines += [f"#   {route}" for route in bypass(file)]
    return "\n".join([*lines, ""])


def as_json(file: TunnelFile) -> dict[str, Any]:
    """Return the same with stable names."""
    table = msgspec.to_builtins(file.table)
    table["interface"].update({key.partition(".")[2]: fill(file) for key, fill in _FILLED_IN.items()})
    return {"schema": SCHEMA, "file": str(file.path), "settings": table, "steps": steps(file), "bypass": bypass(file)}


def bypass(file: TunnelFile) -> list[str]:
    """Return the routes that let packets pass by the tunnel, as `ip` would be told."""
    network = plan(file.name, file.addresses, file.tunnels)
    if network.mark:
        return [
            f"ip rule add priority {min(rule.priority for rule in network.rules) - 1} to ADDRESS table main"
            for _ in network.rules[:1]
        ]
    found = []
    for each in file.tunnels:
        via = "via GATEWAY" if each.peer is None else f"via the gateway towards {each.peer}"
        found += [f"ip route add ADDRESS-IN-{behind} {via}" for behind in each.routed()]
    return found or ["(nothing is routed there but the interface's own network)"]


def _tables(file: TunnelFile) -> Iterator[str]:
    table = file.table
    is_psp = file.is_psp
    for name in ("interface", *(["psp"] if is_psp else []), "log", "metrics"):
        yield f"[{name}]"
        yield from _keys(file, name, getattr(table, name))
        yield ""
    for place, tunnel in enumerate(table.tunnel):
        yield "[[tunnel]]"
        others = [name for name in FAMILY_TABLES if name != tunnel.protocol]
        skipped = (*others, *(ESP_ONLY if is_psp else ("psp",)))
        yield from _keys(file, f"tunnel[{place}]", tunnel, skipped)
        for kind in ("selectors", "sa"):
            for number, each in enumerate(getattr(tunnel, kind)):
                yield ""
                yield f"[[tunnel.{kind}]]"
                yield from _keys(file, f"tunnel[{place}].{kind}[{number}]", each, ("key_in",) if is_psp else ())
        yield ""


def _keys(file: TunnelFile, at: str, table: msgspec.Struct, skipped: Sequence[str] = ()) -> Iterator[str]:
    for key in table.__struct_fields__:
        value = getattr(table, key)
        path = f"{at}.{key}"
        if key in ("selectors", "sa") or key in skipped:
            continue
        default = "" if file.given.has(path) else "  # default"
        if path in _FILLED_IN:
            value = _FILLED_IN[path](file)
        if value is None:
            yield f"# {key} is not set"
        else:
            yield f"{key} = {_toml(key, value)}{default}"


def _toml(key: str, value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        parts = ((name, getattr(value, name)) for name in value.__struct_fields__)
        inside = ", ".join(f"{name} = {_toml(name, each)}" for name, each in parts if each is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(key, each) for each in value)}]"
    if key.startswith("spi"):
        return f"{value:#010x}"
    return json.dumps(value, ensure_ascii=False)


def _inner_mtu(file: TunnelFile, settings: TunnelSettings, network: Plan) -> int:
    path = settings.path_mtu or (path_mtu(settings.peer, network.mark) if settings.peer is not None else None) or 1500
    local = settings.local
    if not int(local) and settings.peer is not None:
        local = local_address(settings.peer, network.mark) or local
    engine = open_carrier(replace(file, engine="reference"))
    profile = settings.profile(local, None, None, path)
    return engine.inner_mtu(engine.install(settings.sa(settings.pairs[0], Direction.OUT, profile), now_ns()))


def _any(address: IPAddress) -> str:
    return str(address) if int(address) else "any address"
