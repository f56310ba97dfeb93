"""Reads the configuration: built-in defaults, then the TOML file, then the environment, into one checked `Config`.

A key of the file is written `LINGUASCHED__SCHEDULER__PHASE2__INSTANCE_ID=a` in the environment: the path in capitals,
its parts joined by two underscores. One start shows all mistakes: those in the keys and their types; once there
are none, those between the values.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from dispatch.conf import Config, ConfigError, Problem, check

PREFIX = "LINGUASCHED__"
Origin = Literal["default", "file", "environment"]

# Keys of the first generation that have no meaning any more, and what became of them.
RETIRED = {
    "scheduler.load_balancer.strategy": "the node with the smallest share of its slots held is always taken",
    "scheduler.task_binding.reserved_ttl_seconds": "a slot is held by a lease now; see scheduler.job_timeout",
    "scheduler.asr_rerun": "re-runs are the nodes' own affair",
    "scheduler.phase2.node_snapshot.enabled": "nodes are always shared while Phase 2 is on",
    "scheduler.phase2.node_snapshot.presence_ttl_seconds": "see scheduler.node_health.heartbeat_timeout_seconds",
    "scheduler.phase2.schema_compat": "the extra keys were never written",
}


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of this process, and where each value came from."""

    config: Config
    origins: dict[str, Origin]  #: dotted key -> where its value came from, in the order of the structs
    path: Path | None  #: the TOML file, if there is one
    data_dir: Path  #: absolute folder of the SQLite file, logs and embedded Redis; not created here


def load(environ: Mapping[str, str]) -> Loaded:
    """Read file and environment; raises `ConfigError` naming every key that cannot be used.

    The file is the one that LINGUASCHED_CONFIG names, and no other: the working directory is never searched.
    """
    path = Path(environ["LINGUASCHED_CONFIG"]) if environ.get("LINGUASCHED_CONFIG") else None
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(SETTINGS, "default")

    for key, value in _from_file(path, problems):
        values[key], origins[key] = value, "file"
    for key, value in _from_environment(environ, problems):
        values[key], origins[key] = value, "environment"
    _apply_resource_threshold(values, origins)

    if not problems:
        config = _build(values)
        problems.extend(check(config))
    if problems:
        raise ConfigError(problems, source=str(path) if path else None)
    return Loaded(
        config=config,
        origins=origins,
        path=path.absolute() if path else None,
        data_dir=Path(environ.get("LINGUASCHED_DATA_DIR") or "var").absolute(),
    )


def _settings(table: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(table):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _settings(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.type


SETTINGS: dict[str, Any] = dict(_settings(Config))  #: dotted key -> its type; whatever is no key is a table or unknown
TABLES = frozenset(key[:at] for key in SETTINGS for at, char in enumerate(key) if char == ".")


# --- the file ---------------------------------------------------------------------------------------------------------


def _from_file(path: Path | None, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    if path is None:
        return
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(
            Problem("LINGUASCHED_CONFIG", str(path), f"cannot be read ({error}); name a readable TOML file")
        )
        return
    except tomllib.TOMLDecodeError as error:
        problems.append(Problem("LINGUASCHED_CONFIG", str(path), f"is not valid TOML: {error}"))
        return
    yield from _keys(document, "", problems)


def _keys(table: Mapping[str, Any], prefix: str, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in TABLES and isinstance(value, dict):
            yield from _keys(value, f"{key}.", problems)
        elif key in TABLES:
            problems.append(Problem(key, value, f"is a table; write [{key}] and its keys below"))
        elif key in SETTINGS:
            yield from _typed(key, value, problems)
        else:
            problems.append(_unknown(key))


# --- the environment --------------------------------------------------------------------------------------------------


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower().replace("__", ".")
        if key in SETTINGS:
            text = environ[variable]
            is_list = isinstance(msgspec.inspect.type_info(SETTINGS[key]), msgspec.inspect.VarTupleType)
            yield from _typed(key, _listed(text) if is_list else text, problems, variable)
        elif key in TABLES:
            problems.append(Problem(variable, None, f"names the table [{key}]; name one of its keys"))
        else:
            problems.append(_unknown(key, variable))


def _listed(text: str) -> Any:
    """A list from the environment, written as JSON or with commas."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text  # the check of the type names it


# --- checks -----------------------------------------------------------------------------------------------------------


def _typed(key: str, value: Any, problems: list[Problem], variable: str | None = None) -> Iterator[tuple[str, Any]]:
    """`key` and its value in the type of its field, or one more problem. Only a variable may write 5 as "5"."""
    try:
        yield key, msgspec.convert(value, SETTINGS[key], strict=variable is None)
    except msgspec.ValidationError as error:
        where = f" (set by {variable})" if variable else ""
        problems.append(Problem(key, value, _explain(str(error), SETTINGS[key]) + where))


def _explain(error: str, kind: Any) -> str:
    """msgspec's sentence, with the values that a choice allows (it does not tell them) and the place inside a list."""
    text, _, place = error.partition(" - at `$")
    if place.rstrip("`"):
        return f"at {place.rstrip('`').lstrip('.')}: {text}"
    wanted = msgspec.inspect.type_info(kind)
    options = wanted.types if isinstance(wanted, msgspec.inspect.UnionType) else (wanted,)
    choices = [
        f'"{value}"' for option in options if isinstance(option, msgspec.inspect.LiteralType) for value in option.values
    ]
    return f"choose one of {', '.join(choices)}" if choices else text


def _unknown(key: str, variable: str | None = None) -> Problem:
    shown = variable or key
    for retired, advice in RETIRED.items():
        if key == retired or key.startswith(f"{retired}."):
            return Problem(shown, None, f"is no longer a key ({advice}); remove it")
    known = [*SETTINGS, *(() if variable else TABLES)]  # no variable names a table
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        # A key at the wrong place: the same last name somewhere else.
        name = key.rpartition(".")[2]
        near = [each for each in SETTINGS if each.rpartition(".")[2] == name][:1]
    suggestion = f"did you mean {_spelled(near[0], variable)}?" if near else "see the sample config.toml for all keys"
    return Problem(shown, None, f"is not a known key; {suggestion}")


def _spelled(key: str, variable: str | None) -> str:
    return PREFIX + key.upper().replace(".", "__") if variable else key


def _apply_resource_threshold(values: dict[str, Any], origins: dict[str, Origin]) -> None:
    """The older key stands for two newer ones, where these are not set themselves."""
    old = "scheduler.load_balancer.resource_threshold"
    if values.get(old) is None:
        return
    for new in ("scheduler.load_balancer.cpu_threshold", "scheduler.load_balancer.gpu_threshold"):
        if new not in values:
            values[new], origins[new] = values[old], origins[old]


def _build(values: Mapping[str, Any]) -> Config:
    """`Config` with these values (already of the right types), the rest by default."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *tables, name = key.split(".")
        table = tree
        for step in tables:
            table = table.setdefault(step, {})
        table[name] = value
    return msgspec.convert(tree, Config)
