"""Owner keeper: every socket in every round, never in a burst, closed by a higher epoch only."""

import time

import pytest

from dispatch.errors import DependencyDown
from dispatch.keys import Keys
from dispatch.roles.owner_keeper import SLICE, OwnerKeeper
from dispatch.store.client import command
from dispatch.store.owners import Owners
from tests.dispatch.roles.clients import client_of


class Socket:
    def __init__(self, owner_key: str, epoch: int) -> None:
        self.owner_key = owner_key
        self.epoch = epoch
        self.closed = False

    def fenced(self) -> None:
        self.closed = True


@pytest.fixture
def owners(prefix) -> Owners:
    return Owners(Keys(prefix), 45_000)


@pytest.fixture
def sockets() -> dict[str, Socket]:
    return {}


@pytest.fixture
def keeper_of(owners, clock, sockets):
    def build(client):
        return OwnerKeeper(client, owners, sockets.values(), "a", clock=clock, hurry_seconds=2)

    return build


async def opened(client, owners, sockets, count, *, instance="a"):
    keys = [owners.keys.node_owner(f"n-{len(sockets) + n}") for n in range(count)]
    for key, claimed in zip(
        keys, await client.flush(*(owners.claim(key, instance=instance) for key in keys)), strict=True
    ):
        sockets[key] = Socket(key, claimed.epoch)
    return [sockets[key] for key in keys]


async def left(client, socket):
    return await client.run(command("PTTL", socket.owner_key))


async def test_each_socket_is_renewed_once_per_round(any_client, owners, sockets, keeper_of):
    await opened(any_client, owners, sockets, 250)
    keeper = keeper_of(any_client)
    await any_client.flush(*(command("PEXPIRE", key, 1000) for key in sockets))
    renewed = []
    for _ in range(3):
        await keeper.turn()
        renewed.append(sum([await left(any_client, socket) > 1000 for socket in sockets.values()]))
    assert renewed == [84, 168, 250]
    assert keeper.interval == 5  # 15 s for three slices


async def test_sockets_that_open_during_a_round_are_in_the_next(client, owners, sockets, keeper_of):
    await opened(client, owners, sockets, SLICE)
    keeper = keeper_of(client)
    await keeper.turn()
    (late,) = await opened(client, owners, sockets, 1)
    await client.run(command("PEXPIRE", late.owner_key, 1000))
    for _ in range(2):
        await keeper.turn()
    assert await left(client, late) > 1000


async def test_a_higher_epoch_closes_the_socket_and_nothing_else_does(any_client, owners, sockets, keeper_of):
    mine, moved, lost = await opened(any_client, owners, sockets, 3)
    await any_client.run(owners.claim(moved.owner_key, instance="b"))
    await any_client.run(command("DEL", lost.owner_key))
    await keeper_of(any_client).turn()
    assert [mine.closed, moved.closed, lost.closed] == [False, True, False]
    assert await any_client.run(owners.owner(moved.owner_key)) == "b"
    assert await any_client.run(owners.owner(lost.owner_key)) == "a"


async def test_a_connection_that_claims_again_meanwhile_is_not_closed(client, owners, sockets, keeper_of):
    class Claiming:
        """Its claim comes back while the renewal of the epoch before is under way."""

        def fenced(self) -> None:
            self.closed = True

        def __init__(self, owner_key: str, old: int, new: int) -> None:
            self.owner_key = owner_key
            self.epochs = [old, new, new]
            self.closed = False

        @property
        def epoch(self) -> int:
            return self.epochs.pop(0)

    key = owners.keys.node_owner("n")
    old, new = [(await client.run(owners.claim(key, instance="a"))).epoch for _ in range(2)]
    sockets[key] = socket = Claiming(key, old, new)
    await keeper_of(client).turn()
    assert not socket.closed


async def test_a_silent_redis_postpones_and_closes_nothing(single_redis, owners, sockets, keeper_of):
    async with client_of(single_redis, timeout_ms=50) as client:
        (socket,) = await opened(client, owners, sockets, 1)
        await client.run(command("PEXPIRE", socket.owner_key, 10_000))
        keeper = keeper_of(client)
        single_redis.pause()
        with pytest.raises(DependencyDown):
            await keeper.turn()
        single_redis.resume()
        assert not socket.closed
        await keeper.turn()
        assert await left(client, socket) > 10_000


async def test_a_slice_that_failed_does_not_hold_up_the_others(client, owners, sockets, keeper_of):
    class OncePostponed(OwnerKeeper):
        failures = 1

        async def _renew(self, slice_):
            if self.failures:
                self.failures -= 1
                raise DependencyDown("one master is down")
            await super()._renew(slice_)

    everybody = await opened(client, owners, sockets, 2 * SLICE)
    keeper = keeper_of(client)
    keeper.__class__ = OncePostponed
    await client.flush(*(command("PEXPIRE", key, 1000) for key in sockets))
    with pytest.raises(DependencyDown):
        await keeper.turn()
    await keeper.turn()
    assert [await left(client, everybody[n]) > 1000 for n in (0, SLICE)] == [False, True]
    await keeper.turn()
    assert await left(client, everybody[0]) > 1000


async def test_lost_records_are_all_back_within_a_hurried_round(any_client, owners, sockets, keeper_of):
    everybody = await opened(any_client, owners, sockets, 2 * SLICE)
    keeper = keeper_of(any_client)
    await any_client.flush(*(command("DEL", socket.owner_key) for socket in everybody))
    turns = 0
    while not all([await any_client.run(owners.owner(socket.owner_key)) == "a" for socket in everybody]):
        await keeper.turn()
        turns += 1
        assert keeper.interval == 1  # 2 s for two slices
    assert turns <= 3
    await keeper.turn()
    await keeper.turn()
    assert keeper.interval == 7.5


async def test_calls_beside_keep_what_belongs_to_a_socket(client, owners, sockets, clock, prefix):
    await opened(client, owners, sockets, 2)
    keeper = OwnerKeeper(
        client,
        owners,
        sockets.values(),
        "a",
        clock=clock,
        hurry_seconds=2,
        beside=lambda socket: [command("INCR", f"{prefix}:{{{socket.epoch}}}")],
    )
    await keeper.turn()
    for socket in sockets.values():
        assert await client.run(command("GET", f"{prefix}:{{{socket.epoch}}}")) == b"1"


async def test_nothing_open_is_nothing_to_do(client, keeper_of):
    await keeper_of(client).turn()


async def test_ten_thousand_sockets_make_no_burst(client, owners, sockets, keeper_of):
    for n in range(10_000):
        key = owners.keys.session_owner(f"s-{n}")
        sockets[key] = Socket(key, n)
    keeper = keeper_of(client)
    keeper._hurrying = True  # none of them was claimed; the test is about the time
    began = time.process_time()
    keeper._begin(15)
    cutting = time.process_time() - began
    assert cutting < 0.005
    assert keeper.interval == 0.15
    costs = []
    for _ in range(20):
        began = time.process_time()
        await keeper.turn()
        costs.append(time.process_time() - began)
    # A turn includes a whole trip to Redis, during which others have the loop; its own work is well below.
    assert sorted(costs)[10] < 0.02
