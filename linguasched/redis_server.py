"""Runs real redis-server processes: one alone, or a small cluster; for the embedded mode and for the tests.

Standard library only, since the supervisor of the embedded Redis runs without site-packages. Linux only.
"""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

Address = Path | int  #: a unix socket, or a port on the loopback interface

SLOTS = 16384
BUS_OFFSET = 10_000  #: a cluster node also listens on its port + this
# Bus ports included below the ephemeral ones (32768 and up), where an outgoing connection could sit on a port we chose.
PORTS = range(10_000, 20_000)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: nothing may be imported between fork and exec


class RedisServerError(RuntimeError):
    """A redis-server did not start, did not answer in time, or answered with an error."""


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float) -> None:
    """Look every 10 ms until `condition()` holds; after `seconds` raise `RedisServerError` saying what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RedisServerError(f"Waited {seconds:g} s in vain until {what}.")
        time.sleep(0.01)


def url_of(address: Address) -> str:
    """The address as redis-py and channels-redis write it."""
    return f"redis://127.0.0.1:{address}/0" if isinstance(address, int) else f"unix://{quote(str(address))}"


def ask(address: Address, *words: str | int, timeout_seconds: float = 5.0) -> str:
    """Send one command over a connection of its own; answers with the text of a status, integer or bulk reply.

    Raises `RedisServerError` for an error reply, `OSError` when nobody answers.
    """
    command = b"*%d\r\n" % len(words)
    for word in words:
        data = str(word).encode()
        command += b"$%d\r\n%s\r\n" % (len(data), data)
    with _connected(address, timeout_seconds) as connection, connection.makefile("rb") as replies:
        connection.sendall(command)
        line = replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"{url_of(address)} closed the connection instead of answering {words[0]}.")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return replies.read(int(rest)).decode() if rest != b"-1" else ""
        if kind in b"+:":
            return rest.decode()
        raise RedisServerError(f"{url_of(address)} answered {' '.join(map(str, words[:3]))} with {rest.decode()!r}.")


def ping(address: Address) -> bool:
    """Whether a server at `address` answers PING within a second."""
    try:
        return ask(address, "PING", timeout_seconds=1.0) == "PONG"
    except (OSError, RedisServerError):
        return False


def free_port() -> int:
    """A loopback port that is free now, and whose cluster bus port is free too."""
    for port in random.SystemRandom().sample(PORTS, 100):
        if _is_free(port) and _is_free(port + BUS_OFFSET):
            return port
    raise RedisServerError(
        f"No free pair of ports (p, p + {BUS_OFFSET}) on 127.0.0.1 with p in {PORTS.start}..{PORTS.stop}."
    )


class RedisServer:
    """One redis-server without persistence, a child of this process that dies with it, kill -9 included.

    It dies with the *thread* that started it, to be exact (that is what Linux watches): start it from one that stays.
    """

    def __init__(self, binary: Path, address: Address, *, directory: Path, options: Sequence[str] = ()) -> None:
        """`directory` holds `redis.log` and is the server's working directory; `options` are further `--name value`."""
        self.binary, self.address, self.directory, self.options = binary, address, directory, tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return url_of(self.address)

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,)

    @property
    def running(self) -> bool:
        """Whether the process lives (a paused one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RedisServerError(f"The server of {self.url} was never started.")
        return self._process.pid

    def start(self, *, seconds: float = 10.0) -> None:
        """Start the process unless it runs, and return when it answers PING; raises `RedisServerError` with its log."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(  # noqa: S603  # our own binary, no shell
                [str(self.binary), *self._arguments()],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal is not meant for it
                preexec_fn=_dying_with(os.getpid()),
            )
        deadline = time.monotonic() + seconds
        while not self._answers():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=0.01)
                raise RedisServerError(f"{self.binary} ended with exit code {code}. {self._last_words()}")
            if time.monotonic() > deadline:
                self.kill()
                raise RedisServerError(f"{self.binary} did not answer PING in {seconds:g} s. {self._last_words()}")

    def stop(self, *, seconds: float = 3.0) -> None:
        """End it politely, or with SIGKILL after `seconds`; nothing is saved either way."""
        if self._process is None:
            return
        self._process.terminate()
        self.resume()  # a paused process hears SIGTERM only when it goes on
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start at the same address, empty."""
        self.stop()
        self.start()

    def empty(self) -> None:
        """Whatever was done to it before: it runs, answers and holds no key."""
        self.resume()
        self.start()
        ask(self.address, "FLUSHALL")

    @property
    def log(self) -> Path:
        return self.directory / "redis.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        """Whether it is this very process that answers, and not one that held the address before."""
        try:
            return f"process_id:{self.pid}\r" in ask(self.address, "INFO", "server", timeout_seconds=1.0)
        except (OSError, RedisServerError):
            return False

    def _arguments(self) -> Iterator[str]:
        yield from ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--daemonize", "no")
        if isinstance(self.address, int):
            yield from ("--bind", "127.0.0.1", "--port", str(self.address))
        else:
            yield from ("--port", "0", "--unixsocket", str(self.address), "--unixsocketperm", "700")
        yield from self.options

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return "\n  ".join([f"The end of {self.log.resolve()}:", *lines])


class RedisCluster:
    """Masters (and replicas, if asked for) on free loopback ports, joined to one cluster that serves all slots."""

    def __init__(
        self, binary: Path, *, directory: Path, masters: int = 3, replicas: int = 0, node_timeout_ms: int = 5000
    ) -> None:
        """`replicas` per master; after `node_timeout_ms` of silence a node counts as failed."""
        self.masters: list[RedisServer] = []
        self.replicas: list[RedisServer] = []
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms))
        taken: set[int] = set()
        for number in range(masters * (1 + replicas)):
            port = next(p for p in iter(free_port, None) if p not in taken)
            taken.add(port)
            home = directory / f"{number}-{port}"
            home.mkdir(parents=True)
            kind = self.masters if number < masters else self.replicas
            kind.append(RedisServer(binary, port, directory=home, options=options))

    @property
    def servers(self) -> list[RedisServer]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        return self.masters[0].url

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)

    def start(self, *, seconds: float = 30.0) -> None:
        """Start every server, form the cluster, and return when each of them says that it is whole."""
        for server in self.servers:
            server.start()
        self._meet()
        for number, master in enumerate(self.masters):
            first, end = (SLOTS * n // len(self.masters) for n in (number, number + 1))
            ask(master.address, "CLUSTER", "ADDSLOTS", *range(first, end))  # 6.2 has no ADDSLOTSRANGE
        wait_until(self._knows_everybody, what="all cluster nodes know each other", seconds=seconds)
        for number, replica in enumerate(self.replicas):
            master = self.masters[number % len(self.masters)]
            ask(replica.address, "CLUSTER", "REPLICATE", ask(master.address, "CLUSTER", "MYID"))
        self.wait_whole(seconds=seconds)

    def wait_whole(self, *, seconds: float = 30.0) -> None:
        """Return when every server reports `cluster_state:ok` and every replica is linked to its master."""
        wait_until(self._is_whole, what="the cluster is whole", seconds=seconds)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def empty(self) -> None:
        """Whatever was done to it before: every server runs, the cluster is whole and holds no key."""
        for server in self.servers:
            server.resume()
            server.start()
        self.wait_whole()
        for server in self.servers:
            if "role:master" in ask(server.address, "INFO", "replication"):  # a failover may have moved the role
                ask(server.address, "FLUSHALL")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _meet(self) -> None:
        first = self.servers[0]
        for epoch, server in enumerate(self.servers, start=1):
            ask(server.address, "CLUSTER", "SET-CONFIG-EPOCH", epoch)  # else equal epochs are sorted out by collisions
            if server is not first:
                ask(first.address, "CLUSTER", "MEET", "127.0.0.1", str(server.address))

    def _knows_everybody(self) -> bool:
        known = f"cluster_known_nodes:{len(self.servers)}\r"
        return all(
            known in ask(server.address, "CLUSTER", "INFO")
            and "handshake" not in ask(server.address, "CLUSTER", "NODES")
            for server in self.servers
        )

    def _is_whole(self) -> bool:
        """Also not while a node that died is still believed to be fine: each must have every slot `ok`."""
        for server in self.servers:
            info = ask(server.address, "CLUSTER", "INFO")
            if "cluster_state:ok" not in info or f"cluster_slots_ok:{SLOTS}\r" not in info:
                return False
            replication = ask(server.address, "INFO", "replication")
            if "role:slave" in replication and "master_link_status:up" not in replication:
                return False
        masters = sum("role:master" in ask(server.address, "INFO", "replication") for server in self.servers)
        return masters == len(self.masters) and self._knows_everybody()


@contextlib.contextmanager
def _connected(address: Address, timeout_seconds: float) -> Iterator[socket.socket]:
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(("127.0.0.1", address) if isinstance(address, int) else str(address))
        yield connection


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _dying_with(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec, so that the kernel kills it when its parent ends in any way.

    SIGKILL, since redis-server removes its socket file on SIGTERM, by then perhaps the file of its successor.
    """

    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the supervisor blocks SIGCHLD; that is not to be inherited

    return before_exec
