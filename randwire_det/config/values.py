"""Checks of config values: ranges, choices, and the nearest known name."""

import difflib
import math
from collections.abc import Iterable, Iterator

from ..errors import UsageError

FLOAT = 1e38  # about the largest float32


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most similar to `name`, ignoring case; None if none is similar enough.

    Args:
        cutoff: the least similarity, 0 (any name) to 1 (equal).
    """
    upper = {each.upper(): each for each in known}
    close = difflib.get_close_matches(name.upper(), upper, n=1, cutoff=cutoff)
    return upper[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "did you mean ...? ", for the middle of a message; "" if no known name is similar."""
    close = nearest(name, known)
    return f"did you mean {close}? " if close else ""


def numbers_in(value) -> Iterator[int | float]:
    """The numbers in a value, also those in nested lists and tuples."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from numbers_in(each)
    elif isinstance(value, int | float):
        yield value


def check_ranges(
    values: dict, ranges: dict[str, tuple[float, float]], infinite: tuple[str, ...] = ()
) -> None:
    """Refuse numbers that are out of range, or too large for float32.

    Args:
        values: {"A.B": value}.
        ranges: (lowest, highest) by key, or by the end of keys: ".B".
        infinite: keys that may exceed FLOAT.

    Raises:
        UsageError: naming the key, its value and what was expected.
    """
    for key, value in values.items():
        low, high = ranges.get(key) or ranges.get(f".{key.split('.')[-1]}") or (-math.inf, math.inf)
        if isinstance(value, int | float) and not low <= value <= high:
            expected = f"{low} or more" if high == math.inf else f"from {low} to {high}"
            raise UsageError(f"{key} {value}: expected {expected}")
        if key not in infinite and any(abs(number) > FLOAT for number in numbers_in(value)):
            raise UsageError(f"{key} {value}: expected numbers of at most {FLOAT:g}")


def check_choices(values: dict, choices: dict[str, tuple[str, ...]]) -> None:
    """Refuse values that are not among the choices of their key.

    Raises:
        UsageError: naming the key, its value and what was expected.
    """
    for key, known in choices.items():
        if values[key] not in known:
            raise UsageError(f"{key} {values[key]!r}: expected {' or '.join(known)}")
