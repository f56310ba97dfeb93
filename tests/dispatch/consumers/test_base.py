"""Both kinds of socket: bad input is answered and disturbs nothing, and whoever leaves is cleaned up."""

import asyncio

import pytest

from dispatch.consumers.node import NodeConsumer
from dispatch.consumers.session import SessionConsumer

CONSUMERS = [NodeConsumer, SessionConsumer]
GARBAGE = [
    "",
    "{",
    "[]",
    "null",
    '"text"',
    "{}",
    '{"type":1}',
    '{"type":"no_such_type"}',
    b"\xff\xfe",
    b"\x00\x01",
    "[" * 100_000,
]


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_garbage_gets_a_typed_error_each_and_the_socket_lives(connect, kind):
    wire = connect(kind)
    for each in GARBAGE:
        wire.say(each)
    await wire.frame("error", len(GARBAGE))
    assert {frame["code"] for frame in wire.frames} == {"INVALID_MESSAGE"}
    assert all(len(frame["message"]) < 1000 for frame in wire.frames)
    assert not wire._task.done()


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_a_frame_above_the_limit_is_named_with_its_size_and_not_read(connect, kind):
    wire = connect(kind)
    limit = wire.consumer.frame_limit()
    wire.say("x" * (limit + 1))
    error = await wire.frame("error")
    assert error["code"] == "INVALID_MESSAGE"
    assert str(limit + 1) in error["message"]


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_a_frame_that_we_fail_to_handle_does_not_end_the_socket(connect, monkeypatch, kind):
    wire = connect(kind)

    async def broken(data):
        raise ZeroDivisionError

    monkeypatch.setattr(wire.consumer, "frame", broken)
    wire.say("{}")
    error = await wire.frame("error")
    assert error["code"] == "INTERNAL_ERROR"
    wire.say("{}")
    await wire.frame("error", 2)


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_a_socket_is_accepted_before_anything_is_said(connect, kind):
    wire = connect(kind)
    await wire.event("websocket.accept")
    assert wire.sent == [{"type": "websocket.accept"}]


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_a_draining_instance_sends_new_sockets_elsewhere_and_reads_nothing(connect, stand, kind):
    stand.instance.draining = True
    wire = connect(kind)
    closed = await wire.event("websocket.close")
    assert closed["code"] == 1013
    wire.say("{}")
    await wire.hang_up()
    assert wire.frames == []


async def test_a_socket_that_said_nothing_leaves_without_a_trace(connect, stand):
    wire = connect(NodeConsumer)
    before = await stand.keys()
    await wire.hang_up()
    assert await stand.keys() == before


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_a_socket_with_a_thousand_frames_at_hand_lets_others_have_their_turn(connect, kind):
    wire = connect(kind)
    for _ in range(1000):
        wire.say("{")
    turns = 0
    while not wire._events.empty():
        turns += 1
        await asyncio.sleep(0)  # one turn of everybody else
    assert turns > 100
    await wire.frame("error", 1000)
