"""Says at the start whether a Redis can be trusted with our state."""

import re
from collections.abc import Mapping

MINIMUM_VERSION = (6, 2)  #: older ones lack XAUTOCLAIM, and refuse writes after TIME in scripts


class UnfitRedis(RuntimeError):
    """The Redis that the configuration names would lose or corrupt state, so the start is refused (DESIGN 6)."""


def check_server(info: Mapping[str, object], config: Mapping[str, object]) -> None:
    """Raise `UnfitRedis` for a server older than 6.2 or one that evicts keys.

    `info` is the answer to INFO (sections server and memory), `config` the one to CONFIG GET maxmemory-policy; it may
    be empty where CONFIG is forbidden, since INFO names the policy too.
    """
    version = str(info.get("redis_version", "unknown"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < MINIMUM_VERSION:
        raise UnfitRedis(
            f"Redis {version} is too old: linguasched needs {'.'.join(map(str, MINIMUM_VERSION))} or newer. "
            "Upgrade the server, or name another one in scheduler.phase2.redis."
        )
    policy = config.get("maxmemory-policy", info.get("maxmemory_policy", "unknown"))
    if policy != "noeviction":
        raise UnfitRedis(
            f"Redis has maxmemory-policy {policy}, which deletes leases and jobs when memory is short. "
            "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)."
        )
