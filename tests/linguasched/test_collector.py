import gc
from collections.abc import Iterator

import pytest

from linguasched import collector


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_was_imported_is_looked_at_no_more() -> None:
    collector.tune()

    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold() == collector.THRESHOLDS


def test_a_walk_over_as_many_sockets_as_an_instance_may_have_collects_nothing() -> None:
    collector.tune()
    before = [generation["collections"] for generation in gc.get_stats()]

    walked = [(number, "a socket") for number in range(20_000)]

    assert len(walked) == 20_000
    assert [generation["collections"] for generation in gc.get_stats()] == before
