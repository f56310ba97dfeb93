"""Tests of the wire. `captured` holds frames that the two real clients sent (PROTOCOL 6)."""

import json
from pathlib import Path
from typing import Any

CAPTURED = Path(__file__).parents[2] / "fixtures" / "captured"


def captured(name: str) -> str:
    """The text of a captured frame."""
    return (CAPTURED / f"{name}.json").read_text(encoding="utf-8")


def captured_fields(name: str) -> dict[str, Any]:
    """The fields of a captured frame, read without our code."""
    fields: dict[str, Any] = json.loads(captured(name))
    return fields


def changed(name: str, **changes: Any) -> str:
    """A captured frame with some fields replaced; `...` takes a field out."""
    fields = captured_fields(name) | changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...})
