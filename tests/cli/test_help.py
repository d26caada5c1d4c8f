"""A list of commands tells what each of them does."""

from __future__ import annotations

import pytest

from wesper.cli import main


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["lab", "--help"], ["pcap", "-h"], ["kernel", "--help"]])
def test_every_command_in_a_list_has_its_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    # A row whose text goes on in the next line leaves the command's column empty there.
    rows = [line[2:].rstrip("│ ") for line in capsys.readouterr().out.splitlines() if line.startswith("│ ")]
    rows = [row for row in rows if not row.startswith(" ")]
    assert len(rows) >= 4
    assert [row for row in rows if len(row.split()) < 2] == []
