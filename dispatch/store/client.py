"""The door to Redis for commands: batched, bounded in time, and honest about what it does not know (P7).

Calls made in the same turn of the event loop travel in one pipeline, so that sixty jobs in flight cost a handful of
round trips. Blocking reads have a connection of their own (`reader`); nothing else may block here.
"""

import asyncio
import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import hiredis
import redis.asyncio as aio
import redis.exceptions as failed
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from dispatch import metrics
from dispatch.conf import Redis as RedisConfig
from dispatch.errors import BrokenScript, DependencyDown
from dispatch.store.script import Call

T = TypeVar("T")

_Group = tuple[Sequence[Call[Any]], "asyncio.Future[list[Any]]"]

_FLIGHTS = 4  #: pipelines under way at once; more calls wait for the next one and share it
_BATCH = 128  #: commands in one pipeline
_BATCH_BYTES = 4 * 2**20  #: of speech and results in one pipeline: more would not get through in time on a slow link
_SEATS = 64  #: commands under way at once on a cluster
_TRIP_AFTER = 5  #: failures in a row that open the breaker
_TRIP_SECONDS = 0.25  #: how long an open breaker answers for Redis

#: Answers that say "not now", never "no". What they were asked is unknown until it is asked again.
_UNAVAILABLE = (
    failed.ConnectionError,
    failed.TimeoutError,
    failed.ReadOnlyError,
    failed.OutOfMemoryError,
    failed.ClusterDownError,
    failed.TryAgainError,
    failed.MasterDownError,
    failed.ClusterError,
    OSError,
    # redis-py's cluster client, when it looks at the cluster anew under load, drops connections that are in use.
    AttributeError,
)
#: The same in words; before Redis 7 those that a script has met stand behind the place in it.
_UNAVAILABLE_WORDS = re.compile(
    r"(?:Error running script .*@user_script: \d+: -)?"
    r"(?:LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|READONLY|OOM|MISCONF|NOREPLICAS|BUSY)\b"
)


class Transport(Protocol):
    """Sends whole commands and brings their answers, exceptions included, in order."""

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]: ...

    async def describe(self) -> list[tuple[dict[str, Any], dict[str, Any]]]: ...

    async def aclose(self) -> None: ...


class Pipelines:
    """One server, or the master that Sentinel names: a batch is written at once, its answers are read in order.

    redis-py's own pipeline does the same at twice the cost: what it adds (transactions, answers reshaped by command)
    nobody needs here.
    """

    def __init__(self, redis: "aio.Redis", beside: Sequence["aio.Redis"] = ()) -> None:
        self.redis = redis
        self._beside = beside  # the sentinels that are asked for the master; closed together with it

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        packed = b"".join(map(hiredis.pack_command, commands))
        try:
            return await self._exchange(packed, len(commands))
        except failed.ConnectionError:
            # A connection from before the server's restart: once more, on a new one. Every call may be repeated.
            return await self._exchange(packed, len(commands))

    async def _exchange(self, packed: bytes, count: int) -> list[Any]:
        pool = self.redis.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(packed, check_health=False)
            return [await _reply(connection) for _ in range(count)]
        except BaseException:
            # Answers may still come over it, and would be taken for those of the next commands.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    async def describe(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [(await self.redis.info(), await _policy(self.redis.config_get))]

    async def aclose(self) -> None:
        for each in (self.redis, *self._beside):
            await each.aclose()


async def _reply(connection: Any) -> Any:
    """The next answer; one that is an error is a value, since those behind it are still to be read."""
    try:
        return await connection.read_response(disable_decoding=True)
    except failed.ResponseError as error:
        return error


class Slots:
    """A cluster: each command goes to the master of its slot, all at once."""

    def __init__(self, redis: "aio.RedisCluster") -> None:
        self.redis = redis
        self._seats = asyncio.Semaphore(_SEATS)

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(await asyncio.gather(*map(self._ask, commands), return_exceptions=True))

    async def _ask(self, command: tuple[Any, ...]) -> Any:
        # Every command under way has a connection of its own, and redis-py refuses more than 100 for one master.
        async with self._seats:
            return await self.redis.execute_command(*command)

    async def describe(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        await self.redis.initialize()
        return [
            (
                await self.redis.info(target_nodes=node),
                await _policy(functools.partial(self.redis.config_get, target_nodes=node)),
            )
            for node in self.redis.get_primaries()
        ]

    async def aclose(self) -> None:
        await self.redis.aclose()


class RedisClient:
    """Runs `Call`s.

    `ordered` says whether a flush keeps the order of its commands on the server: true on one Redis, false on a cluster.
    """

    def __init__(self, transport: Transport, *, ordered: bool, reader: "aio.Redis | aio.RedisCluster") -> None:
        self.ordered = ordered
        self.reader = reader
        self._transport = transport
        self._waiting: deque[_Group] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._called = False
        self._failures = 0
        self._tripped_until = 0.0

    async def run(self, call: Call[T]) -> T:
        """Send one call.

        Raises:
            DependencyDown: Redis did not answer in time or cannot serve now; the outcome is unknown.
            BrokenScript: Redis answered with an error that no retry mends.
        """
        answer: T = (await self.flush(call))[0]
        return answer

    async def flush(self, *calls: Call[Any]) -> list[Any]:
        """Send independent calls together, in this order; raises as `run` does, for the first that failed."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._tripped_until:
            raise DependencyDown(f"Redis did not answer: {self._tripped()}")
        answers: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((calls, answers))
        if not self._called and len(self._flights) < _FLIGHTS:
            self._called = True
            loop.call_soon(self._take_off)
        replies = await answers
        return [call.read(_checked(call, reply)) for call, reply in zip(calls, replies, strict=True)]

    async def wait(self, call: Call[T], *, seconds: float) -> T:
        """Send a call that blocks in Redis, on the reader's own connection, and wait this long for its answer; raises
        as `run` does."""
        reply: Any
        try:
            async with asyncio.timeout(seconds):
                reply = await self.reader.execute_command(*call.args)
        except TimeoutError as error:
            raise DependencyDown(f"Redis did not answer {call.args[0]} within {seconds:g} s") from error
        except (failed.RedisError, OSError) as error:
            reply = error
        return call.read(_checked(call, reply))

    def _take_off(self) -> None:
        self._called = False
        groups: list[_Group] = []
        size = 0
        weight = 0
        while self._waiting and (not groups or (size + len(self._waiting[0][0]) <= _BATCH and weight < _BATCH_BYTES)):
            group = self._waiting.popleft()
            weight += sum(map(_weight, group[0]))
            if not group[1].cancelled():
                groups.append(group)
                size += len(group[0])
        if groups:
            flight = asyncio.get_running_loop().create_task(self._fly(groups))
            self._flights.add(flight)
            flight.add_done_callback(functools.partial(self._land, groups))

    def _land(self, groups: list[_Group], flight: "asyncio.Task[None]") -> None:
        self._flights.discard(flight)
        if flight.cancelled():
            _turn_away(groups, "the client was closed")
        if self._waiting and not self._called:
            self._take_off()

    async def _fly(self, groups: list[_Group]) -> None:
        calls = [call for group, _ in groups for call in group]
        try:
            replies = await self._transport.send([call.args for call in calls])
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, failed.NoScriptError)]
            if unknown:
                texts = [("EVAL", calls[i].source, *calls[i].args[2:]) for i in unknown]
                for i, reply in zip(unknown, await self._transport.send(texts), strict=True):
                    replies[i] = reply
        except Exception as error:
            replies = [error] * len(calls)
        self._note(replies)
        start = 0
        for group, answers in groups:
            if not answers.done():
                answers.set_result(replies[start : start + len(group)])
            start += len(group)

    def _note(self, replies: list[Any]) -> None:
        """Counts, and opens the breaker after several flights in a row of which nothing came back."""
        errors = sum(1 for reply in replies if _is_unavailable(reply))
        metrics.redis_ops.labels("ok").inc(len(replies) - errors)
        metrics.redis_ops.labels("err").inc(errors)
        if errors < len(replies):  # on a cluster some masters may answer while one does not
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _TRIP_AFTER:
            self._tripped_until = asyncio.get_running_loop().time() + _TRIP_SECONDS
            # Who waits for his turn hears it, too: a crowd would wait for one time-out after the other (P1, P7).
            _turn_away(self._waiting, self._tripped())
            self._waiting.clear()

    def _tripped(self) -> str:
        return "it did not answer several times in a row; trying again in a moment"

    async def servers(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """INFO and the eviction policy of every server that holds data, for the check at the start.

        Raises:
            DependencyDown: a server did not answer.
        """
        try:
            return await self._transport.describe()
        except _UNAVAILABLE as error:
            raise DependencyDown(f"Redis did not answer: {type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        """Closes the connections; calls under way get `DependencyDown`."""
        _turn_away(self._waiting, "the client was closed")
        self._waiting.clear()
        for flight in list(self._flights):
            flight.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)
        await self._transport.aclose()
        await self.reader.aclose()


def _turn_away(groups: Iterable[_Group], why: str) -> None:
    """These are not asked any more."""
    for calls, answers in groups:
        if not answers.done():
            answers.set_result([failed.ConnectionError(why)] * len(calls))


async def _policy(config_get: Callable[[str], Any]) -> dict[str, Any]:
    """CONFIG GET maxmemory-policy; empty where the server forbids CONFIG, since INFO names the policy too."""
    try:
        return dict(await config_get("maxmemory-policy"))
    except failed.ResponseError:
        return {}


def _weight(call: Call[Any]) -> int:
    """Bytes of speech or of a result in a command, nearly; only plain SETs carry any (DESIGN 3)."""
    value = call.args[2] if call.args[0] == "SET" else ""
    return len(value) if isinstance(value, str | bytes) else 0


def _is_unavailable(reply: Any) -> bool:
    return isinstance(reply, _UNAVAILABLE) or (
        isinstance(reply, failed.ResponseError) and _UNAVAILABLE_WORDS.match(str(reply)) is not None
    )


def _checked(call: Call[Any], reply: Any) -> Any:
    if not isinstance(reply, BaseException):
        return reply
    if _is_unavailable(reply):
        raise DependencyDown(f"Redis did not answer: {type(reply).__name__}: {reply}") from reply
    if isinstance(reply, failed.RedisError):
        raise BrokenScript(f"{call.args[0]} {call.args[1]}: {reply}") from reply
    raise reply


def mapping(reply: Any) -> dict[str, str]:
    """The answer to HGETALL as text, which a cluster's client has made a dict already."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}


def command(*args: Any) -> Call[Any]:
    """A plain Redis command whose answer is taken as it is."""
    return Call(args, _as_it_is)


def _as_it_is(reply: Any) -> Any:
    return reply


def connect(config: RedisConfig, url: str | None = None) -> RedisClient:
    """A client for what the configuration names; `url` overrides it (the embedded server's socket).

    Opens no connection yet. At most one retry, and only where a connection broke: redis-py's default is ten.
    """
    retry = Retry(NoBackoff(), 1)
    common: dict[str, Any] = {"socket_connect_timeout": config.timeout_ms / 1000, "protocol": 2}
    if config.username:
        common["username"] = config.username
    if config.password:
        common["password"] = config.password
    quick = {**common, "socket_timeout": config.timeout_ms / 1000}
    # The blocking reader waits for entries longer than any command may take.
    patient = {**common, "socket_timeout": None}
    if config.mode == "cluster" and url is None:
        return RedisClient(
            Slots(_cluster(config, retry=retry, **quick)),
            ordered=False,
            reader=_cluster(config, retry=retry, **patient),
        )
    if config.mode == "sentinel" and url is None:
        hosts = [_host_and_port(each) for each in config.sentinel_urls]
        sentinel = Sentinel(hosts, **quick)
        master = sentinel.master_for(config.sentinel_service, retry=retry, **quick)
        return RedisClient(
            Pipelines(master, sentinel.sentinels),
            ordered=True,
            reader=sentinel.master_for(config.sentinel_service, **patient),
        )
    address = url or config.url
    commands = aio.Redis.from_url(address, retry=retry, max_connections=2 * _FLIGHTS, **quick)
    return RedisClient(Pipelines(commands), ordered=True, reader=aio.Redis.from_url(address, retry=retry, **patient))


def _cluster(config: RedisConfig, **options: Any) -> "aio.RedisCluster":
    """A client that finds the whole cluster through any of the servers named."""
    seeds: list[dict[str, Any]] = [dict(parse_url(seed)) for seed in config.cluster_urls or (config.url,)]
    nodes = [ClusterNode(seed["host"], seed.get("port", 6379)) for seed in seeds]
    for name in ("username", "password"):
        if name in seeds[0]:
            options.setdefault(name, seeds[0][name])
    secure = any(url.startswith("rediss://") for url in (*config.cluster_urls, config.url)[:1])
    return aio.RedisCluster(startup_nodes=nodes, ssl=secure, **options)


def _host_and_port(url: str) -> tuple[str, int]:
    """`redis://host:port` or `host:port` as a pair."""
    host, _, port = url.rpartition("/")[2].rpartition("@")[2].rpartition(":")
    return host, int(port)
