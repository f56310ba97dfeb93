"""Two daphne instances for all stories, on one Redis and again on a cluster of three masters."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.flows.instances import Backend, InstanceProcess
from tests.flows.stage import Stage


@pytest.fixture(scope="package", params=["single", "cluster"])
def backend(request: pytest.FixtureRequest) -> Backend:
    servers = request.getfixturevalue("_single_server" if request.param == "single" else "_cluster_servers")
    return Backend(servers, f"f{secrets.token_hex(4)}")


@pytest.fixture(scope="package")
def home() -> Iterator[Path]:
    """The data directory, shared by all instances."""
    with tempfile.TemporaryDirectory(prefix="flows-") as directory:
        yield Path(directory)


@pytest.fixture(scope="package")
def instances(backend: Backend, home: Path) -> Iterator[tuple[InstanceProcess, InstanceProcess]]:
    """Instances a and b; the story of their end is told here: exit status 0, and no error in their logs."""
    a, b = InstanceProcess("a", backend, home), InstanceProcess("b", backend, home)
    try:
        a.wait_ready()
        b.wait_ready()
        yield a, b
        a.stop()
        b.stop()
    finally:
        a.kill()
        b.kill()


@pytest.fixture
async def stage(instances: tuple[InstanceProcess, InstanceProcess], backend: Backend) -> AsyncIterator[Stage]:
    stage = Stage(*instances, backend)
    yield stage
    await stage.close()


@pytest.fixture(params=["same instance", "other instance"])
def there(request: pytest.FixtureRequest, instances: tuple[InstanceProcess, InstanceProcess]) -> InstanceProcess:
    """Where the node is, while the session is on a."""
    return instances[request.param == "other instance"]
