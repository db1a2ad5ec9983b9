"""What code does by the kind of a reason: the sets that follow from it, and the tables beside them."""

from vdi.gateway.history.transitions import END_REASONS
from vdi.session.conditions import BUSY_REASONS, ENDED_BY_ITSELF, QUEUE_REASONS, TEMPORARY_REASONS, Reason


def test_the_api_reference_and_the_kind_agree_which_reasons_stand_in_the_queue() -> None:
    assert {reason for reason in Reason if reason.condition == "Admitted: in the queue"} == QUEUE_REASONS


def test_each_reason_that_passes_or_ends_a_run_belongs_to_the_condition_that_is_read_for_it() -> None:
    assert BUSY_REASONS < QUEUE_REASONS < TEMPORARY_REASONS
    assert all(reason.condition.startswith("Admitted") for reason in TEMPORARY_REASONS)
    assert {reason.condition for reason in ENDED_BY_ITSELF} == {"Ready"}


def test_history_has_an_answer_for_every_reason_that_ends_a_run() -> None:
    assert END_REASONS.keys() == ENDED_BY_ITSELF
