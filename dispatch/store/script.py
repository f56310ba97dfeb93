"""A Lua file becomes a function: its header is its signature (STYLE 3.2).

`Script.load("job_submit")` reads the names in the header; `call` takes them as keywords, orders them and refuses wrong
ones. A `Call` is a value: what to send and how to read the answer. Whoever has a client runs it.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
FOLDER = Path(__file__).resolve().parent.parent / "lua"
_INCLUDE = re.compile(r'^--- @include "(\w+)"$', re.MULTILINE)
_pack = msgspec.msgpack.encode


class Call(Generic[T]):
    """One command for Redis and how to read its answer.

    `args` is the whole command; for a script `source` is its text, sent when Redis does not know the digest.
    """

    __slots__ = ("args", "read", "source")

    def __init__(self, args: tuple[Any, ...], read: Callable[[Any], T], source: str | None = None) -> None:
        self.args = args
        self.read = read
        self.source = source


class Script:
    """A Lua command: name, text with its includes, digest, and the names and types of its keys and arguments."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.keys = tuple(_header(text, "KEYS").split())
        self.args = tuple(_argument(name, each) for each in _header(text, "ARGV").split(",") if each.strip())
        self.returns = tuple(each.split()[0] for each in _header(text, "RETURNS").split("|"))
        self.source = _INCLUDE.sub(lambda found: (FOLDER / "include" / f"{found[1]}.lua").read_text("utf-8"), text)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    @cache
    def load(cls, name: str) -> "Script":
        """The script of that name in `dispatch/lua`.

        Raises:
            FileNotFoundError: there is no such script.
            ValueError: its header cannot be read.
        """
        return cls(name, (FOLDER / f"{name}.lua").read_text("utf-8"))

    def call(self, *, keys: Mapping[str, str], read: Callable[[Any], T], **args: Any) -> Call[T]:
        """The call with these keys (more may be handed in than the script uses) and arguments.

        Raises:
            TypeError: an argument is missing, unknown, or of the wrong type.
        """
        if len(args) != len(self.args) or any(name not in args for name, _ in self.args):
            wanted = ", ".join(name for name, _ in self.args)
            raise TypeError(f"{self.name}.lua takes ({wanted}), not ({', '.join(args)})")
        values = [encode(args[name]) for name, encode in self.args]
        return Call(
            ("EVALSHA", self.sha, len(self.keys), *(keys[name] for name in self.keys), *values), read, self.source
        )


def _header(text: str, section: str) -> str:
    """What stands behind `--- SECTION` in the header; empty when the script has no such section."""
    found = re.search(rf"^--- {section}  (.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected str, got {value!r}")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected int, got {value!r}")
    return value


def _packed(value: Any) -> bytes:
    """A value for `cmsgpack.unpack`; bytes were packed before (the rules, which never change)."""
    return value if isinstance(value, bytes) else _pack(value)


_TYPES: dict[str, Callable[[Any], Any]] = {"str": _text, "int": _integer, "pack": _packed}


def _argument(script: str, declared: str) -> tuple[str, Callable[[Any], Any]]:
    name, _, kind = declared.strip().partition(" ")
    if kind not in _TYPES:
        raise ValueError(f"{script}.lua: the type of {name!r} is {kind!r}, not one of {', '.join(_TYPES)}")
    return name, _TYPES[kind]
