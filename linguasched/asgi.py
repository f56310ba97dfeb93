"""The application that an ASGI server runs: `daphne linguasched.asgi:application`."""

import os
from typing import cast

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "linguasched.settings")
django.setup()

from channels.routing import ProtocolTypeRouter  # noqa: E402 - Django has to be set up before
from django.conf import settings  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

from dispatch.conf import Config  # noqa: E402
from dispatch.instance import Instance  # noqa: E402
from dispatch.routing import sockets  # noqa: E402
from dispatch.servers.base import raise_limits  # noqa: E402
from dispatch.store.client import connect  # noqa: E402
from linguasched import embedded  # noqa: E402
from linguasched.lifecycle import Application, Lifecycle  # noqa: E402
from linguasched.probes import probes  # noqa: E402


def _instance(config: Config) -> Instance:
    """The instance of this process, with the Redis that the configuration names."""
    redis, url = config.scheduler.phase2.redis, None
    if redis.mode == "embedded":
        # Held until this process ends, however it ends: the supervisor counts us by the lock.
        held = embedded.acquire(settings.DATA_DIR, shared=config.scheduler.phase2.enabled)
        url = held.url
    return Instance(config, connect(redis, url))


raise_limits(settings.DISPATCH.scheduler.limits.node_frame_bytes + 1024)
instance = _instance(settings.DISPATCH)
lifecycle = Lifecycle(start=instance.start, drain=instance.drain)
doors = ProtocolTypeRouter({"http": probes(instance, get_asgi_application()), "websocket": sockets(instance)})
application = lifecycle.wrap(cast(Application, doors))
