"""The application that an ASGI server runs: `daphne linguasched.asgi:application`.

A start that has to be refused ends the process with one readable message instead of a traceback.
"""

import os
import sys
from typing import cast

import django

from dispatch.conf import Config, ConfigError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "linguasched.settings")
try:
    django.setup()
except ConfigError as error:
    sys.exit(f"linguasched cannot start: {error}")

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

from dispatch.instance import Instance
from dispatch.routing import sockets
from dispatch.servers.base import raise_limits
from dispatch.store.client import connect
from linguasched import collector, embedded
from linguasched.lifecycle import Application, Lifecycle
from linguasched.probes import probes


def _instance(config: Config) -> Instance:
    """The instance of this process, with the Redis that the configuration names."""
    redis, url = config.scheduler.phase2.redis, None
    if redis.mode == "embedded":
        # Held until this process ends, however it ends: the supervisor counts us by the lock.
        try:
            held = embedded.acquire(settings.DATA_DIR, shared=config.scheduler.phase2.enabled)
        except (embedded.DataDirInUse, embedded.RedisUnavailable) as error:
            sys.exit(f"linguasched cannot start: {error}")
        url = held.url
    return Instance(config, connect(redis, url))


collector.tune()
raise_limits(settings.DISPATCH.scheduler.limits.node_frame_bytes + 1024)
instance = _instance(settings.DISPATCH)
lifecycle = Lifecycle(start=instance.start, drain=instance.drain)
doors = ProtocolTypeRouter({"http": probes(instance, get_asgi_application()), "websocket": sockets(instance)})
application = lifecycle.wrap(cast(Application, doors))
