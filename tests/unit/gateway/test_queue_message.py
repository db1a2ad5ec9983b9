"""What a person reads while the desktop waits: words for each reason of the queue, and none of the
cluster's names.
"""

from typing import Any

import pytest

from support.builders import a_session
from vdi.gateway.queue_message import REASONS, queue_message
from vdi.session.conditions import QUEUE_REASONS

RAW = "all 8 nvidia.com/gpu on nodes a and b are in use"


def said(queue: dict[str, Any] | None) -> str:
    return queue_message(a_session(status={"phase": "Pending", "message": RAW, "queue": queue}))


def test_each_reason_of_the_queue_has_words() -> None:
    assert set(REASONS) == QUEUE_REASONS


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        (
            {"position": 2, "reason": "MemoryBusy"},
            "Waiting for capacity, number 2 in line: not enough memory is free.",
        ),
        (
            {"position": 1, "reason": "GPUsBusy", "nodeRequestTime": "2026-11-20T10:00:05Z"},
            (
                "Waiting for capacity, number 1 in line: not enough suitable GPUs are free. "
                "A node was requested at 10:00 UTC."
            ),
        ),
        (
            {"reason": "HomeNodeGone"},
            (
                "No node can run this desktop, and none will become free: the node with your files"
                " no longer exists. Ask your administrator. It starts when that changes."
            ),
        ),
        ({"position": 1, "reason": "OfALaterVersion"}, RAW),
        (None, RAW),
    ],
)
def test_the_message_says_place_reason_and_time(queue: dict[str, Any] | None, message: str) -> None:
    assert said(queue) == message


def test_a_missing_claim_is_files_being_prepared() -> None:
    pod = {"type": "PodReady", "status": "False", "reason": "MissingHome", "message": RAW}
    assert queue_message(a_session(status={"conditions": [pod]})) == "Preparing your files."
