"""What a file or a run was made from, a nested dictionary: as text, and compared with another."""

import json
from collections.abc import Iterator
from typing import Any

_ABSENT = object()


def as_json(configuration: dict[str, Any]) -> str:
    """A configuration as it is stored in files."""
    return json.dumps(configuration, sort_keys=True)


def list_differences(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two configurations, as clauses like ``score.k was 5 and is 3``."""
    return list(find_differences(held, wanted).values())


def find_differences(held: dict[str, Any], wanted: dict[str, Any]) -> dict[str, str]:
    """The same by the place of each value, such as ``score.k``."""
    return dict(_differences_below("", held, wanted))


def _differences_below(
    path: str, held: dict[str, Any], wanted: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    for key in sorted(held.keys() | wanted.keys()):
        a, b = held.get(key, _ABSENT), wanted.get(key, _ABSENT)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences_below(f"{path}{key}.", a, b)
        elif a != b:
            yield f"{path}{key}", f"{path}{key} was {_shorten(a)} and is {_shorten(b)}"


def _shorten(value: Any) -> str:
    """The value in a few words: the beginning of a checksum or of a long list is enough."""
    text = "absent" if value is _ABSENT else str(value)
    shown, most = (12, 40) if isinstance(value, str) else (76, 80)
    return text if len(text) < most else text[:shown] + "…"
