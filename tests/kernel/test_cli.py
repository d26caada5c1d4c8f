"""`wesper kernel` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from wesper.errors import UnsupportedError
from wesper.kernel import find

from .conftest import KERNELS


def wesper(*words: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wesper", "kernel", *words]
    whole = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(command, input=input, capture_output=True, text=True, env=whole, timeout=120)


@pytest.mark.parametrize("name", KERNELS)
def test_run(name: str) -> None:
    try:
        kernel = find(name)
    except UnsupportedError as error:
        pytest.skip(str(error))
    done = wesper("run", "--kernel", name, "--", "sh", "-c", "uname -r; cat; echo no >&2; exit 7", input="given\n")
    assert (done.returncode, done.stdout) == (7, f"{kernel.release}\ngiven\n")
    assert done.stderr.endswith("no\n")


def test_list() -> None:
    listed = json.loads(wesper("list", "--json").stdout)
    assert listed["schema"] == 1
    assert [each["name"] for each in listed["kernels"]] == list(KERNELS)
    text = wesper("list").stdout
    assert all(each in text for each in KERNELS)


def test_what_is_wrong_is_one_line(tmp_path: object) -> None:
    empty = {"XDG_CACHE_HOME": str(tmp_path)}
    for words, code, said in (
        (("run", "--kernel", "newest", "--", "true"), 2, "expected packaged or built"),
        (("build", "newest"), 2, "expected packaged or built"),
        (("run",), 2, "no command"),
        (("run", "--", "true"), 3, "`wesper kernel build built` makes it"),
        (("boot", "packaged"), 3, "`wesper kernel build packaged` makes it"),
    ):
        done = wesper(*words, **empty)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.startswith("wesper: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert "not there: `wesper kernel build built`" in wesper("list", **empty).stdout
