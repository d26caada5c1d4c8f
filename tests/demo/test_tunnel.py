from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wesper.demo import tunnel
from wesper.demo.tunnel import SETTINGS, Tunnel, with_settings
from wesper.lab import Node

SAS = "\n[[tunnel.sa]]\nspi_out = 1\n\n[[tunnel.sa]]\nspi_out = 2\n"
HEAD = '[interface]\n\n[[tunnel]]\nname = "demo"\n'


@pytest.mark.parametrize(
    ("protocol", "table"),
    [("wespv2", ""), ("eesp", ""), ("eesp", "\n[tunnel.eesp]\nsession = 0\nsequence_numbers = true\n")],
)
def test_settings_go_into_the_protocols_own_table(protocol: str, table: str) -> None:
    made = tomllib.loads(with_settings(HEAD + table + SAS, protocol))["tunnel"][0]
    for line in SETTINGS[protocol]:
        assert made[protocol].items() >= tomllib.loads(line).items()
    assert ("sequence_numbers" in made[protocol]) == bool(table), "what else was there stays"
    assert [pair["spi_out"] for pair in made["sa"]] == [1, 2]


def test_quiet_is_when_both_ends_have_heard_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "mkdtemp", lambda prefix: str(tmp_path))
    a, b = (cast("Node", SimpleNamespace(name=name)) for name in "ab")
    told = {"a": [False, True, True], "b": [False, True]}

    def status(_: Tunnel, host: Node) -> dict[str, Any]:
        return {"tunnels": [{"pairs": [{"proven": told[host.name].pop(0)}]}]}

    monkeypatch.setattr(Tunnel, "status", status)
    Tunnel(a, b, tmp_path, None, "esp").await_quiet()
    assert told == {"a": [], "b": []}


@pytest.mark.parametrize("protocol", ["esp", "psp", "wesp"])
def test_what_has_no_settings_stays_as_it_is(protocol: str) -> None:
    assert with_settings(HEAD + SAS, protocol) == HEAD + SAS
