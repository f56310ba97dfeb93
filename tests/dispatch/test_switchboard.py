"""The sockets open here: the latest link of a peer counts, and only it takes itself out (PHASE2 W7)."""

import pytest

from dispatch.switchboard import Exchange


class Link:
    """Any link; compared by identity, like the real ones."""


@pytest.fixture
def exchange() -> Exchange[Link]:
    return Exchange()


def test_a_link_is_found_by_its_peer(exchange):
    link = Link()
    assert exchange.plug("n1", link) is None
    assert exchange.get("n1") is link
    assert exchange.get("n2") is None


def test_a_later_link_replaces_the_earlier_one_and_names_it(exchange):
    old, new = Link(), Link()
    exchange.plug("n1", old)
    assert exchange.plug("n1", new) is old
    assert exchange.get("n1") is new
    assert len(exchange) == 1


def test_a_link_that_is_plugged_again_replaces_nobody(exchange):
    link = Link()
    exchange.plug("n1", link)
    assert exchange.plug("n1", link) is None


def test_the_late_clean_up_of_a_replaced_link_removes_nothing(exchange):
    old, new = Link(), Link()
    exchange.plug("n1", old)
    exchange.plug("n1", new)
    assert not exchange.unplug("n1", old)
    assert exchange.get("n1") is new
    assert exchange.unplug("n1", new)
    assert exchange.get("n1") is None


def test_an_unknown_link_cannot_be_taken_out(exchange):
    assert not exchange.unplug("n1", Link())


def test_empty_is_set_exactly_while_no_link_is_in(exchange):
    one, two = Link(), Link()
    assert exchange.empty.is_set()
    exchange.plug("n1", one)
    exchange.plug("n2", two)
    exchange.unplug("n1", one)
    assert not exchange.empty.is_set()
    exchange.unplug("n2", two)
    assert exchange.empty.is_set()


def test_links_may_come_and_go_while_one_goes_through_them(exchange):
    links = [Link(), Link()]
    for name, link in zip("ab", links, strict=True):
        exchange.plug(name, link)
    seen = []
    for link in exchange:
        exchange.plug("c", Link())
        exchange.unplug("b", links[1])
        seen.append(link)
    assert seen == links
