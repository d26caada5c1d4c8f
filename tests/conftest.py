"""Marks for tests that need something of the machine. Missing, it is a skip with a reason; with CI=true, a failure."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Generator, Iterator

import pytest

CI = os.environ.get("CI") == "true"

MARKS = (
    "needs_tool(name, package): runs a program; package is Debian's package that brings it",
    "needs_module(name, package): imports a Python module; package is what pip installs for it",
    "needs_native: uses the native engine",
    "needs_root: works only as root, which CI does not ask of an ordinary user",
    "needs_tun: opens /dev/net/tun, which CI does not ask of an ordinary user",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, which --strict-markers asks for."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marks ask for something that this machine lacks."""
    reasons = "; ".join(missing(item))
    if reasons:
        pytest.skip(reasons)
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("needs_tun") and not may_open_tun():
        pytest.skip("/dev/net/tun can't be opened: modprobe tun, chmod 0666 /dev/net/tun")


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip what needs network namespaces if there are none."""
    from wesper.errors import UnsupportedError
    from wesper.lab import Lab

    try:
        Lab().close()
    except UnsupportedError as error:
        pytest.skip(str(error))


def missing(item: pytest.Item) -> Iterator[str]:
    """Yield a sentence, with what to install, for each thing that the test's marks ask for and this machine lacks."""
    for mark in item.iter_markers("needs_tool"):
        name, package = _name_and_package(*mark.args, **mark.kwargs)
        if shutil.which(name) is None:
            yield f"{name} is not installed: apt-get install {package}"
    for mark in item.iter_markers("needs_module"):
        name, package = _name_and_package(*mark.args, **mark.kwargs)
        if importlib.util.find_spec(name) is None:
            yield f"Python module {name} is not installed: pip install {package}"
    if item.get_closest_marker("needs_native") and importlib.util.find_spec("wesper._native") is None:
        yield "the native engine is not built: make build, with a Rust toolchain"


def may_open_tun() -> bool:
    """Whether this user can open the TUN device, which some machines keep for root."""
    return os.access("/dev/net/tun", os.R_OK | os.W_OK)


def is_for_root(item: pytest.Item) -> bool:
    """Whether a test is one that may be skipped where root's means are missing, also in CI."""
    by_tun = item.get_closest_marker("needs_tun") and os.geteuid() != 0
    return bool(by_tun or item.get_closest_marker("needs_root"))


def _name_and_package(name: str, package: str | None = None) -> tuple[str, str]:
    return name, package or name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn every skip into a failure under CI, however it came about: there all that tests need is installed."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail") and not is_for_root(item):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {call.excinfo.value if call.excinfo else ''}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a whole file that is skipped while it is imported."""
    report = yield
    if CI and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {report.longrepr}"
    return report
