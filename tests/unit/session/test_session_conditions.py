"""What code does by the kind of a reason: the sets that follow from it, and the tables beside
them.
"""

from vdi.gateway.history.transitions import END_REASONS
from vdi.session.conditions import (
    BUSY_REASONS,
    ENDED_BY_ITSELF,
    QUEUE_REASONS,
    TEMPORARY_REASONS,
    Reason,
)


def test_queue_reasons_are_those_of_the_api_reference() -> None:
    assert {
        reason for reason in Reason if reason.condition == "Admitted: in the queue"
    } == QUEUE_REASONS


def test_kinds_of_reasons_belong_to_their_condition() -> None:
    assert BUSY_REASONS < QUEUE_REASONS < TEMPORARY_REASONS
    assert all(reason.condition.startswith("Admitted") for reason in TEMPORARY_REASONS)
    assert {reason.condition for reason in ENDED_BY_ITSELF} == {"Ready"}


def test_history_has_an_answer_for_every_reason_that_ends_a_run() -> None:
    assert END_REASONS.keys() == ENDED_BY_ITSELF
