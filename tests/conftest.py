"""For all suites: Ctrl-C works in programs that tests start, CI skips nothing, no test asks how
fast this machine is.

A shell makes what it starts with `&` ignore SIGINT, and children inherit that; a handler here gives
them the default. Hypothesis tries few examples of each property in the usual run, more in `make
unit-3.13` (profile `long`), and many in `make test-all` (profile `thorough`). It would fail a test
of which one example takes 0.2 s, as each does on a machine with much to do.
"""

import gc
import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=10)
settings.register_profile("long", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("default")


def pytest_collection_finish() -> None:
    """Modules stay until the end: the garbage collector need not walk through them, and less often
    through the rest.
    """
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skipped test has failed: a program is missing there. Marked `platform`, it may be
    skipped.
    """
    report = yield
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("platform"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI=true: {report.longrepr}"
    return report
