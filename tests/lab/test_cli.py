"""`wesper lab` as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wesper import cli
from wesper.lab import pair

pytestmark = pytest.mark.usefixtures("namespaces")
WESPER = f"{sys.executable} -m wesper"


class Output(NamedTuple):
    """What one call printed, and its exit code."""

    code: Any
    out: str
    err: str


@pytest.fixture
def wesper(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Output]:
    """Return a function that calls `wesper lab` in this process."""
    monkeypatch.delenv("WESPER_LAB", raising=False)

    def call(*words: str) -> Output:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["lab", *words])
        return Output(stopped.value.code, *capfd.readouterr())

    return call


def test_run_gives_a_command_its_lab_and_takes_it_away(wesper: Callable[..., Output], name: str) -> None:
    script = f"{WESPER} lab exec b -- sh -c 'grep -c eth0 /proc/net/dev; exit 7'; echo $?; exit 5"
    done = wesper("run", "pair", "--name", name, "--", "sh", "-c", script)
    assert done.code == 5
    assert done.out.splitlines()[-2:] == ["1", "7"]
    assert name not in wesper("list").out


def test_a_lab_is_shown_and_changed_from_outside(
    wesper: Callable[..., Output], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = tmp_path / "lab.toml"
    topology.write_text(
        f'name = "{name}"\nhosts = ["a", "b", "c"]\n[[links]]\nends = ["a", "b"]\nloss = "1%"\n'
        '[[links]]\nends = ["b", "c"]\n'
    )
    command = [sys.executable, "-m", "wesper", "lab", "run", str(topology)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            assert "wesper lab exec HOST" in running.stderr.readline()
            monkeypatch.setenv("WESPER_LAB", name)
            assert wesper("set", "a-b", "--loss", "100%", "--toward", "b").code == 0
            shown = json.loads(wesper("show", name, "--json").out)
            assert shown["schema"] == 1
            assert [node["name"] for node in shown["nodes"]] == ["a", "b", "c"]
            bad, plain = shown["links"]
            assert bad["toward"]["b"]["impairment"]["loss"] == 1
            assert bad["toward"]["a"]["impairment"]["loss"] == 0.01
            assert plain["toward"]["c"]["counters"].keys() == {"received", "sent"}
            text = wesper("show").out
            assert "loss 100%" in text
            assert "10.0.1.1/24" in text
            for words, message in (
                (("exec", "x", "--", "true"), f"there is no node x in lab {name} (expected a, b, c)"),
                (("set", "a-x"), "there is no link a-x (expected a-b, b-c)"),
                (("set", "b-c", "--loss", "1%"), "link b-c is a plain veth pair"),
                (("set", "a-b", "--loss", "1"), "'1' is not understood"),
                (("set", "a-b", "--toward", "c"), "link a-b does not reach c (expected a or b)"),
            ):
                done = wesper(*words)
                assert (done.code, done.err.count("\n")) == (2, 1)
                assert message in done.err
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0


@pytest.mark.parametrize("topology", ["pair", "routed", "third-host", "nat"])
def test_every_ready_made_topology_runs(wesper: Callable[..., Output], topology: str) -> None:
    assert wesper("run", topology, "--", "true").code == 0


def test_what_is_wrong_is_one_line_and_exit_code_2(wesper: Callable[..., Output]) -> None:
    for words, message in (
        (("run", "no-such"), "there is no topology no-such"),
        (("show", "no-such"), "no lab no-such to be had"),
        (("exec", "a", "--lab", "no-such", "--", "true"), "no lab no-such to be had"),
    ):
        done = wesper(*words)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert message in done.err


def test_running_labs_are_listed(wesper: Callable[..., Output], name: str) -> None:
    with pair(name):
        answer = json.loads(wesper("list", "--json").out)
        assert any(
            line.startswith(f"{name}\tpid ") and line.endswith("\ta b") for line in wesper("list").out.splitlines()
        )
    assert answer["schema"] == 1
    (mine,) = [lab for lab in answer["labs"] if lab["name"] == name]
    assert (mine["nodes"], mine["links"]) == (2, 1)
