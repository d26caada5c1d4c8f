"""Directories of daemons are this user's own, or nothing is put into them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wesper.errors import ConfigError
from wesper.host.places import make_own


def test_a_directory_is_made_for_this_user_alone_and_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        make_own(tmp_path / "a" / "run", "run_dir")
    assert (tmp_path / "a" / "run").stat().st_mode & 0o777 == 0o700


def test_one_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"interface.run_dir: .* others may write to it"):
        make_own(tmp_path, "run_dir")


@pytest.mark.needs_root
@pytest.mark.parametrize("is_link", [False, True])
def test_one_that_another_user_was_first_to_make_is_refused(is_link: bool, tmp_path: Path) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    mine.mkdir()
    if is_link:
        theirs.symlink_to(mine)
    else:
        theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ConfigError, match="belongs to another user"):
        make_own(theirs, "run_dir")
