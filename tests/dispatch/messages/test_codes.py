"""Every code has its words."""

from dispatch.messages.codes import RETRYABLE_ELSEWHERE, ErrorCode, hint


def test_every_code_has_a_hint_of_its_own():
    hints = {code: hint(code) for code in ErrorCode}
    assert len(set(hints.values())) == len(ErrorCode)
    assert hint("SOMETHING_ELSE") not in hints.values()
    assert hint("SOMETHING_ELSE")


def test_another_node_is_tried_for_what_is_wrong_with_a_node():
    assert "MODEL_NOT_AVAILABLE" in RETRYABLE_ELSEWHERE
    assert RETRYABLE_ELSEWHERE.isdisjoint({"INVALID_MESSAGE", "JOB_TIMEOUT", "SCHEDULER_DEPENDENCY_DOWN"})
