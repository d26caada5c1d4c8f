"""Topologies in TOML: names of hosts and routers, and a `[[links]]` table for each link.

hosts = ["a", "b"]
routers = ["r"]
seed = 7

[[links]]
ends = ["a", "r"]

[[links]]
ends = ["r", "b"]
mtu = 1400
delay = "10ms"
loss = "1%"
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..errors import ConfigError
from ..keying.strict_toml import read_strict
from ..keying.toml_lines import LineIndex
from .impair import KEYS
from .lab import Lab
from .node import Router


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Link(_Strict):
    ends: tuple[str, str]
    name: str | None = None
    mtu: int = 1500
    networks: list[str] | None = None
    addresses: dict[str, list[str]] | None = None
    offloads: bool | None = None
    forwarder: bool | None = None
    masquerade: str | None = None
    random_ports: bool = False
    seed: int | str | None = None
    loss: str | float = 0
    delay: str | float = 0
    jitter: str | float = 0
    reorder: str | float = 0
    duplicate: str | float = 0
    rate: str | int | None = None
    queue: str | int | None = None
    drop_above: str | int | None = None


class _File(_Strict):
    name: str | None = None
    seed: int | str | None = None
    hosts: list[str] = []
    routers: list[str] = []
    links: list[_Link] = []


_TABLES: dict[str, type[msgspec.Struct]] = {"": _File, "links": _Link}
_EXPECTED = {
    "addresses": '{ a = ["192.0.2.1/24"], b = ["192.0.2.2/24"] }',
    "delay": 'a duration such as "10ms"',
    "duplicate": 'a percentage such as "1%"',
    "ends": '["a", "b"], two nodes by name',
    "hosts": '["a", "b"]',
    "jitter": 'a duration such as "1ms"',
    "loss": 'a percentage such as "1%"',
    "networks": '["192.0.2.0/24", "2001:db8::/64"]',
    "rate": 'a rate such as "100mbit"',
    "reorder": 'a percentage such as "1%"',
    "routers": '["r"]',
}


def build_lab(path: Path, name: str | None = None) -> Lab:
    """Make the lab that a file describes.   name: instead of the file's.

    Raises ConfigError with file, line and key; UnsupportedError; OSError if the file can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"octet {error.start} is not UTF-8", path=path, expected="TOML") from None
    file, lines = read_strict(text, path, _File, tables=_TABLES, expected=_EXPECTED)
    known = [*file.hosts, *file.routers]
    for place, link in enumerate(file.links):
        for end in link.ends:
            if end not in known:
                key = f"links[{place}].ends"
                raise ConfigError(
                    f"there is no node {end}", path=path, line=lines.line(key), key=key, expected=", ".join(known)
                )
    try:
        lab = Lab(name or file.name, seed=file.seed)
    except ConfigError as error:
        if name:
            raise
        raise ConfigError(error.what, path=path, line=lines.line("name"), key="name", expected=error.expected) from None
    try:
        _Builder(lab, path, lines).build(file)
        lab.settle()
    except BaseException:
        lab.close()
        raise
    return lab


class _Builder:
    def __init__(self, lab: Lab, path: Path, lines: LineIndex) -> None:
        self._lab, self._path, self._lines = lab, path, lines

    def build(self, file: _File) -> None:
        for kind, make in (("hosts", self._lab.host), ("routers", self._lab.router)):
            for place, name in enumerate(getattr(file, kind)):
                try:
                    make(name)
                except ConfigError as error:
                    raise self._at(f"{kind}[{place}]", "", error) from None
        for place, link in enumerate(file.links):
            try:
                self._link(link)
            except ConfigError as error:
                raise self._at(f"links[{place}]", error.key, error) from None

    def _link(self, given: _Link) -> None:
        impairment = {key: value for key in KEYS if (value := getattr(given, key))}
        link = self._lab.link(
            *given.ends,
            name=given.name,
            mtu=given.mtu,
            networks=given.networks,
            addresses=given.addresses,
            offloads=given.offloads,
            forwarder=given.forwarder,
            seed=given.seed,
            **impairment,
        )
        if given.masquerade is None:
            return
        router = self._lab.nodes.get(given.masquerade)
        if given.masquerade not in given.ends or not isinstance(router, Router):
            raise ConfigError(f"{given.masquerade} is no router of this link", key="masquerade")
        router.masquerade(link, random_ports=given.random_ports)

    def _at(self, table: str, key: str, error: ConfigError) -> ConfigError:
        key = f"{table}.{key}" if key else table
        line = self._lines.line(key)
        return ConfigError(error.what, path=self._path, line=line, key=key, expected=error.expected)
