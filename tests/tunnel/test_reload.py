"""Files read again under traffic: keys roll without losing a packet, in either order; what can't change is refused."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from wesper.lab import pair
from wesper.tunnel.control import Refused

from .ends import Stream, add_pair, await_ping, drop_first_pair, ending, eventually, ping, two_ends

pytestmark = pytest.mark.usefixtures("namespaces")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


def during(streams: list[Stream], work: Callable[[], None]) -> None:
    """Do something while traffic flows both ways."""
    done = threading.Event()
    wrong: list[BaseException] = []

    def working() -> None:
        try:
            work()
        except BaseException as error:
            wrong.append(error)
        done.set()

    thread = threading.Thread(target=working)
    thread.start()
    while not done.is_set():
        for each in streams:
            each.run(0.02)
    thread.join()
    if wrong:
        raise wrong[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["tunnel", "beet"])
@pytest.mark.parametrize("first", ["left", "right"])
def test_keys_roll_without_losing_a_packet(
    first: str, mode: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesper.tunnel.pairs.GRACE_NS", 500_000_000)
    inner = {"left": ("10.8.0.1/24",), "right": ("10.8.0.2/24",)}
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, mode=mode, inner=inner)
        with ending(left, right), ExitStack() as stack:
            left.up()
            right.up()
            await_ping(left, right.inner)
            streams = [stack.enter_context(each) for each in (Stream(left, right), Stream(right, left))]
            old = left.pair()["out"]["spi"]
            sides = [left, right] if first == "left" else [right, left]

            def roll() -> None:
                add_pair(left, right)
                for side in sides:
                    said = side.ask("reload")["did"]
                    assert any("added SPI" in each for each in said), said
                    # Until the other one knows the new pair, data stays on the old one.
                    if side is sides[0]:
                        assert side.pair(0)["sending"]
                for side in sides:
                    eventually(lambda side=side: side.pair(1)["sending"])  # type: ignore[misc]
                for side in reversed(sides):
                    drop_first_pair(side)
                    side.ask("reload")
                for side in sides:
                    eventually(lambda side=side: len(side.status()["tunnels"][0]["pairs"]) == 1)  # type: ignore[misc]

            during(streams, roll)
            for each in streams:
                assert each.lost() == []
                assert each.twice == 0
                assert each.number > 100
            assert left.pair()["out"]["spi"] != old
            assert [each["event"] for each in left.ask("events")["events"]].count("pair_removed") == 1


def test_a_tunnel_comes_and_goes(tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path / "one", a, b)
        more_left, more_right = two_ends(
            tmp_path / "two", a, b, inner={"left": ("10.8.0.1/24",), "right": ("10.9.0.2/24",)}
        )
        with ending(left, right):
            left.up()
            before = left.path.read_text()
            table = more_left.path.read_text().partition("[[tunnel]]")[2].replace('"test"', '"more"')
            for key in tmp_path.glob("two/left.*.key"):
                key.rename(tmp_path / "one" / f"more-{key.name}")
            left.path.write_text(before + "\n[[tunnel]]" + table.replace('"left.1', '"more-left.1'))
            would = left.ask("reload", dry_run=True)["did"]
            assert [each["name"] for each in left.status()["tunnels"]] == ["test"]
            assert "10.9.0.2" not in a.run(["ip", "route"]).stdout
            assert not left.told("reloaded")
            assert "added tunnel more" in would
            assert left.ask("reload")["did"] == would
            assert "10.9.0.2" in a.run(["ip", "route"]).stdout
            more_right.up()
            with ending(more_right):
                await_ping(left, "10.9.0.2")
            left.path.write_text(before)
            assert "removed tunnel more" in left.ask("reload")["did"]
            assert "10.9.0.2" not in a.run(["ip", "route"]).stdout
            right.up()
            assert ping(left, right.inner, 2) or ping(left, right.inner, 2)


@pytest.mark.parametrize(
    ("table", "key", "value", "said"),
    [
        ("interface", "offloads", "off", ": interface.offloads: can't change in a running tunnel"),
        ("tunnel", "hop_limit", 3, ": tunnel[0].hop_limit: can't change in a running tunnel"),
        ("tunnel", "networks", ["10.0.0.0/8"], ": tunnel[0].networks: can't change"),
        ("tunnel", "nonsense", 3, "tunnel[0].nonsense: unknown key"),
    ],
)
def test_what_can_not_change_is_refused_and_nothing_changes(
    table: str, key: str, value: object, said: str, tmp_path: Path
) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab)
        with ending(left, right):
            left.up()
            before = left.status()["tunnels"][0]["pairs"][0]["out"]["spi"]
            left.set(table, **{key: value})
            with pytest.raises(Refused) as caught:
                left.ask("reload")
            assert said in str(caught.value)
            assert re.match(rf"{re.escape(str(left.path))}:\d+: ", str(caught.value))
            assert caught.value.exit_code == 2
            assert left.pair()["out"]["spi"] == before
            assert left.told("reload_refused")
            right.up()
            await_ping(left, right.inner)


def test_a_key_that_is_installed_and_an_spi_that_is_are_not_taken_twice(tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            before = left.path.read_text()
            spi_out, spi_in = (f"spi_{way} = {left.pair()[way]['spi']:#010x}" for way in ("out", "in"))
            assert spi_out in before
            assert spi_in in before
            # The numbers of two SAs would begin apart, and the next start among those of the second.
            left.path.write_text(before.replace(spi_out, "spi_out = 0x777").replace(spi_in, "spi_in = 0x778"))
            with pytest.raises(Refused, match="has the key of another SA"):
                left.ask("reload")
            left.path.write_text(before.replace('name = "test"', 'name = "other"'))
            with pytest.raises(Refused, match="is installed still"):
                left.ask("reload")
            assert [each["name"] for each in left.status()["tunnels"]] == ["test"]
            assert ping(left, right.inner, 2)
            left.path.write_text(before)
            assert left.ask("reload")["did"] == []
