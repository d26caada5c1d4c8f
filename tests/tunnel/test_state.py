"""Numbers are on disk before they are used, marks only rise, and keys whose numbers nobody knows are refused."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wesper import SA, Direction, Outer, Profile
from wesper.errors import ConfigError, KeyMaterialError
from wesper.tunnel.state import BLOCK, SHORT_BLOCK, State, fingerprint

PROFILE = Profile("aes-gcm-16", outer=Outer(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")))
SHORT = Profile("aes-gcm-16", outer=PROFILE.outer, esn=False)
FULL = 2**64 - 1


def sa(number: int, direction: Direction = Direction.OUT, profile: Profile = PROFILE, sequence: int = 0) -> SA:
    return SA(profile, direction, 256 + number, bytes([number]) * 16, b"salt", sequence=sequence)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[State]]:
    states: list[State] = []
    yield states
    for state in states:
        state.close()


def start(directory: Path, *sas: SA, name: str = "office") -> State:
    state = State.open(directory, name)
    try:
        state.admit([(each, f"SPI {each.spi}") for each in sas])
    except BaseException:
        state.close()
        raise
    return state


def test_a_start_goes_on_above_what_the_last_one_reserved(tmp_path: Path) -> None:
    last = 0
    for generation in range(1, 5):
        state = start(tmp_path, sa(1))
        assert state.generation == generation
        assert state.resume(sa(1)) == last
        last = state.reserved(sa(1))
        assert last == generation * BLOCK
        state.close()  # as a crash does


def test_an_orderly_end_gives_back_what_was_not_used(tmp_path: Path) -> None:
    state = start(tmp_path, sa(1))
    state.resume(sa(1))
    state.settle({fingerprint(sa(1)): 77})
    state.close()
    again = start(tmp_path, sa(1))
    assert again.resume(sa(1)) == 77
    again.close()


def test_the_next_block_is_reserved_when_half_is_used(tmp_path: Path, opened: list[State]) -> None:
    mark = fingerprint(sa(1))
    state = start(tmp_path, sa(1))
    opened.append(state)
    state.resume(sa(1))
    assert state.top_up({mark: BLOCK // 2 - 1}) == {}
    assert state.top_up({mark: BLOCK // 2}) == {mark: 2 * BLOCK}
    assert state.top_up({mark: BLOCK // 2}) == {}
    assert state.reserved(sa(1)) == 2 * BLOCK


def test_numbers_end_where_the_sequence_does(tmp_path: Path, opened: list[State]) -> None:
    mine = sa(1, profile=SHORT, sequence=2**32 - SHORT_BLOCK // 4)
    state = start(tmp_path, mine)
    opened.append(state)
    assert state.resume(mine) == mine.sequence
    assert state.reserved(mine) == 2**32 - 1
    assert state.top_up({fingerprint(mine): 2**32 - 2}) == {}


def test_what_was_received_is_kept(tmp_path: Path) -> None:
    mine = sa(2, Direction.IN)
    state = start(tmp_path, mine)
    assert state.resume(mine) == 0
    state.save_tops({fingerprint(mine): 5000})
    state.save_tops({fingerprint(mine): 4000})  # a top never falls
    state.close()
    again = start(tmp_path, mine)
    assert again.resume(mine) == 5000
    again.close()


def test_keys_whose_state_is_gone_are_refused(tmp_path: Path) -> None:
    start(tmp_path, sa(1)).close()
    (tmp_path / "office.state").unlink()
    with pytest.raises(KeyMaterialError, match=r"state that knows their last numbers is gone.*wesper keygen"):
        start(tmp_path, sa(1))


def test_keys_whose_state_is_of_an_older_generation_are_refused(tmp_path: Path) -> None:
    start(tmp_path, sa(1)).close()
    backup = (tmp_path / "office.state").read_bytes()
    start(tmp_path, sa(1)).close()
    (tmp_path / "office.state").write_bytes(backup)
    with pytest.raises(KeyMaterialError, match="older than their last use"):
        start(tmp_path, sa(1))


def test_keys_of_another_running_file_are_refused(tmp_path: Path) -> None:
    start(tmp_path, sa(1)).close()
    with pytest.raises(KeyMaterialError, match=r"copy\.state.*is gone"):
        start(tmp_path, sa(1), name="copy")


def test_a_refusal_writes_nothing(tmp_path: Path) -> None:
    start(tmp_path, sa(1)).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyMaterialError, match="the key of another SA"):
        start(tmp_path, sa(1), sa(3), sa(3))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_key_serves_one_direction(tmp_path: Path) -> None:
    start(tmp_path, sa(1)).close()
    with pytest.raises(KeyMaterialError, match="other direction"):
        start(tmp_path, sa(1, Direction.IN))


def test_new_spi_old_key_is_an_old_key(tmp_path: Path) -> None:
    start(tmp_path, sa(1)).close()
    (tmp_path / "office.state").unlink()
    renamed = SA(PROFILE, Direction.OUT, 9999, sa(1).key, sa(1).salt)
    with pytest.raises(KeyMaterialError, match="used before"):
        start(tmp_path, renamed)


def test_new_keys_come_beside_old_ones_and_old_ones_come_back(tmp_path: Path) -> None:
    state = start(tmp_path, sa(1))
    state.resume(sa(1))
    state.admit([(sa(1), "old"), (sa(2), "new")])
    assert state.resume(sa(2)) == 0
    state.close()
    start(tmp_path, sa(2)).close()  # without the old one
    again = start(tmp_path, sa(2), sa(1))
    assert again.resume(sa(1)) == BLOCK
    again.close()


def test_one_process_at_a_time(tmp_path: Path, opened: list[State]) -> None:
    opened.append(start(tmp_path, sa(1)))
    with pytest.raises(ConfigError, match=r"running already.*wesper down office"):
        State.open(tmp_path, "office")


@pytest.mark.parametrize("name", ["office.state", "keys.ledger"])
def test_a_damaged_file_is_told_and_not_believed(tmp_path: Path, name: str) -> None:
    start(tmp_path, sa(1)).close()
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(KeyMaterialError, match=rf"{name}: damaged at octet 32"):
        start(tmp_path, sa(1))


@given(data=st.binary(max_size=200))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_octets_are_refused_or_empty(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.state").write_bytes(data)
    try:
        state = State.open(tmp_path, "x")
    except KeyMaterialError:
        return
    state.close()
    assert not any(data[: len(data) // 32 * 32])


def test_files_hold_no_key_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    start(tmp_path / "new", sa(1)).close()
    for path in (tmp_path / "new").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert sa(1).key not in path.read_bytes()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_full_disk_stops_no_reservation_in_a_file_that_stands(tmp_path: Path, opened: list[State]) -> None:
    state = start(tmp_path, sa(1))
    opened.append(state)
    state.resume(sa(1))
    size = (tmp_path / "office.state").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        assert state.top_up({fingerprint(sa(1)): BLOCK}) == {fingerprint(sa(1)): 2 * BLOCK}
        with pytest.raises(OSError, match="File too large"):
            state.admit([(sa(4), "new")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert state.reserved(sa(1)) == 2 * BLOCK


def test_a_killed_process_never_used_a_number_above_the_mark(tmp_path: Path) -> None:
    """Kill a process that reserves as fast as it can, and find every number that it said it may use below the mark."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_state import BLOCK, fingerprint, sa, start;"
        "state = start(Path(sys.argv[1]), sa(1)); used = state.resume(sa(1));"
        "print(used, state.reserved(sa(1)), flush=True)\n"
        "for _ in range(10_000):\n"
        "    used += BLOCK\n"
        "    for last in state.top_up({fingerprint(sa(1)): used}).values():\n"
        "        print(used, last, flush=True)\n"
    )
    highest = 0
    for _ in range(5):
        command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = [int(word) for word in process.stdout.readline().split()]
            assert first[0] >= highest
            lines = [process.stdout.readline() for _ in range(20)]
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        highest = max(int(line.split()[1]) for line in lines if line.endswith("\n") and line.strip())
    state = start(tmp_path, sa(1))
    assert state.resume(sa(1)) >= highest
    state.close()
