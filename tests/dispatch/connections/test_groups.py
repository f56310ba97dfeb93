"""Groups: what belongs to one turn of a conversation (PROTOCOL 7.5)."""

import pytest

from dispatch.connections.groups import Groups


@pytest.fixture
def groups() -> Groups:
    return Groups("s-1")


def join(groups: Groups, *, now: float, text: str = "hello") -> tuple[str, int]:
    return groups.join(text, now=now, now_ms=round(now * 1000))


def test_the_first_part_opens_a_group_named_after_session_and_time(groups):
    assert join(groups, now=5.0) == ("group_s-1_5000", 0)


def test_a_part_within_two_seconds_joins(groups):
    join(groups, now=5.0)
    assert join(groups, now=7.0) == ("group_s-1_5000", 1)


def test_a_later_part_opens_another_group(groups):
    join(groups, now=5.0)
    assert join(groups, now=7.01) == ("group_s-1_7010", 0)


def test_each_part_prolongs_its_group(groups):
    for number in range(4):
        assert join(groups, now=5.0 + 1.9 * number) == ("group_s-1_5000", number)


def test_the_end_of_its_playback_prolongs_it(groups):
    group, _ = join(groups, now=5.0)
    groups.playback_ended(group, now=8.0)
    assert join(groups, now=10.0) == (group, 1)


def test_the_playback_of_another_group_does_not(groups):
    join(groups, now=5.0)
    groups.playback_ended("group_s-1_1", now=8.0)
    assert join(groups, now=8.0) == ("group_s-1_8000", 0)


def test_eight_parts_fill_a_group(groups):
    parts = [join(groups, now=5.0 + number / 10) for number in range(9)]
    assert parts[7] == ("group_s-1_5000", 7)
    assert parts[8] == ("group_s-1_5800", 0)


def test_eight_hundred_characters_fill_a_group(groups):
    join(groups, now=5.0, text="x" * 500)
    assert join(groups, now=5.1, text="x" * 300) == ("group_s-1_5000", 1)
    assert join(groups, now=5.2, text="x") == ("group_s-1_5200", 0)


def test_a_part_that_is_too_long_for_any_group_gets_its_own(groups):
    assert join(groups, now=5.0, text="x" * 900) == ("group_s-1_5000", 0)
    assert join(groups, now=5.1) == ("group_s-1_5100", 0)
