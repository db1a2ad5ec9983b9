"""For all suites: Ctrl-C works in the programs that tests start, and no test asks how fast this machine is.

A shell makes what it starts with `&` ignore SIGINT, and children inherit that; a handler here gives them the default.
Hypothesis would fail a test of which one example takes 0.2 s, as each does on a machine with much to do.
"""

import signal

from hypothesis import settings


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("patient", settings(deadline=None))
    settings.load_profile("patient")
