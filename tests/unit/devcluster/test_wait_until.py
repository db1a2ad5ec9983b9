import pytest

from support.clock import FakeClock
from vdi.devcluster import processes


def test_looks_become_rarer_while_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = FakeClock(), list[float]()
    began = clock.seconds

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.seconds += seconds

    monkeypatch.setattr("vdi.devcluster.processes.time.monotonic", clock.monotonic)
    monkeypatch.setattr("vdi.devcluster.processes.time.sleep", sleep)
    assert not processes.wait_until(lambda: False, 60.0)
    assert (pauses[0], pauses[-1]) == (0.05, 1.0) and pauses == sorted(pauses)
    assert clock.seconds - began <= 61.0 and len(pauses) < 140
    assert processes.wait_until(lambda: True, 0.0)
