"""Topologies in TOML: what is built, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesper.errors import ConfigError
from wesper.lab import build_lab
from wesper.lab.client import running

GOOD = """\
name = "NAME"
hosts = ["a", "b"]
routers = ["r"]
seed = 7

[[links]]
ends = ["a", "r"]

[[links]]
ends = ["r", "b"]
name = "far"
mtu = 1400
networks = ["192.0.2.0/24"]
masquerade = "r"
delay = "1ms"
loss = "1%"
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "lab.toml"


@pytest.mark.usefixtures("namespaces")
def test_a_file_makes_its_lab(toml: Path, name: str) -> None:
    toml.write_text(GOOD.replace("NAME", name))
    with build_lab(toml) as lab:
        assert lab.name == name
        assert [(node.name, node.kind) for node in lab] == [("a", "host"), ("b", "host"), ("r", "router")]
        assert list(lab.links) == ["a-r", "far"]
        far = lab.links["far"]
        assert (far.mtu, far.forwarded, far.end(lab["r"]).masqueraded) == (1400, True, True)
        assert lab["b"].address == "192.0.2.2"
        assert any(lab["a"].ping(lab["b"], count=3))
    with build_lab(toml, f"{name}-b") as lab:
        assert lab.name == f"{name}-b"


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ('"NAME"', '"no/name"', 1, "name", "no name"),
        ("hosts =", "hots =", 2, "hots", "unknown key (expected hosts)"),
        ('["a", "b"]', '"a"', 2, "hosts", "not str"),
        ("delay", "dely", 15, "links[1].dely", "unknown key (expected delay)"),
        ('"1ms"', '"1m"', 15, "links[1].delay", "'1m' is not understood"),
        ('"1ms"', "true", 15, "links[1].delay", 'a duration such as "10ms"'),
        ('"1%"', '"200%"', 16, "links[1].loss", "no probability"),
        ('"r", "b"', '"r", "c"', 10, "links[1].ends", "no node c (expected a, b, r)"),
        ('"r", "b"', '"r"', 10, "links[1].ends", "two nodes by name"),
        ('ends = ["a", "r"]', "", 6, "links[0].ends", "missing"),
        ('ends = ["r", "b"]', 'ends = ["r", "r"]', 10, "links[1].ends", "two nodes"),
        ('masquerade = "r"', 'masquerade = "b"', 14, "links[1].masquerade", "no router"),
        ("mtu = 1400", "mtu = 1", 12, "links[1].mtu", "68..16000"),
        ('"192.0.2.0/24"', '"192.0.2.1/24"', 13, "links[1].networks", "host bits"),
        ('["a", "b"]', '["a", "a", "b"]', 2, "hosts[1]", "already"),
        ('["a", "b"]', '["a", "b"', 3, "", "a ] behind it"),
    ],
)
@pytest.mark.usefixtures("namespaces")
def test_a_wrong_file_is_told_by_line_and_key(
    toml: Path, name: str, old: str, new: str, line: int, key: str, message: str
) -> None:
    assert old in GOOD
    toml.write_text(GOOD.replace(old, new, 1).replace("NAME", name))
    with pytest.raises(ConfigError) as caught:
        build_lab(toml)
    assert (caught.value.path, caught.value.line, caught.value.key) == (toml, line, key)
    assert message in str(caught.value)
    assert name not in running()
