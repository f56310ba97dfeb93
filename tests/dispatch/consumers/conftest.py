"""Consumers on an instance that has no server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dispatch.consumers.base import SocketConsumer
from tests.dispatch.consumers.wire import Wire
from tests.dispatch.roles.clients import client_of
from tests.dispatch.roles.conftest import HandClock
from tests.dispatch.service.stand import Stand

Connect = Callable[[type[SocketConsumer]], Wire]


@pytest.fixture
async def stand(single_redis, prefix) -> AsyncIterator[Stand]:
    limits: dict[str, Any] = {"limits.sockets_per_instance": 3}
    async with client_of(single_redis) as client:
        stand = await Stand(client, prefix, HandClock(), **limits).start()
        yield stand
        await stand.close()


@pytest.fixture
async def connect(stand) -> AsyncIterator[Connect]:
    wires: list[Wire] = []

    def connect(kind: type[SocketConsumer]) -> Wire:
        wires.append(Wire(kind, stand))
        return wires[-1]

    yield connect
    for wire in wires:
        if not wire._task.done():
            await wire.hang_up()
