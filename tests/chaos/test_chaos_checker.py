"""What the checker notes when its watch was cut and a list tells it what has happened meanwhile."""

from typing import cast

import msgspec
import pytest

from chaos.checker import Checker
from chaos.objects import SeenPod
from vdi.kube.transport import Client


@pytest.fixture
def checker() -> Checker:
    checker = Checker(cast("Client", None), "here")
    checker.pods.observe(pod("s1", 5))
    return checker


def pod(session: str, version: int, uid: str = "first") -> SeenPod:
    """A pod of this session with the one home."""
    meta = {
        "name": session,
        "namespace": "here",
        "uid": f"{session}-{uid}",
        "resourceVersion": str(version),
        "ownerReferences": [{"kind": "VDISession", "name": session, "uid": session}],
    }
    volume = {"name": "home", "persistentVolumeClaim": {"claimName": "home-of-alice"}}
    return msgspec.convert({"metadata": meta, "spec": {"volumes": [volume]}}, SeenPod)


def relist(checker: Checker, *pods: SeenPod) -> None:
    listed = checker.pods.relist(20, "here")
    for one in pods:
        listed.put(one)
    listed.finish()


def test_home_that_changed_hands_while_the_watch_was_cut_has_one_writer(checker: Checker) -> None:
    relist(checker, pod("s2", 12))
    assert (checker.violations, [one.metadata.name for one in checker.pods.values()]) == (
        [],
        ["s2"],
    )


def test_pod_made_again_while_the_watch_was_cut_is_one_writer(checker: Checker) -> None:
    relist(checker, pod("s1", 12, "second"))
    assert (checker.violations, [one.metadata.uid for one in checker.pods.values()]) == (
        [],
        ["s1-second"],
    )


def test_two_writers_in_one_list_are_noted(checker: Checker) -> None:
    relist(checker, pod("s1", 5), pod("s2", 12))
    assert "has 2 writers: [('s1', ''), ('s2', '')]" in checker.violations[0]


def test_second_writer_that_the_watch_brings_is_noted(checker: Checker) -> None:
    checker.pods.observe(pod("s2", 12))
    assert "has 2 writers: [('s1', ''), ('s2', '')]" in checker.violations[0]
