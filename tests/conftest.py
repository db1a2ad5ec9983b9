"""For all suites: Ctrl-C works in the programs that tests start, also where the tests were started in the background.

A shell makes what it starts with `&` ignore SIGINT, and children inherit that; a handler here gives them the default.
"""

import signal


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
