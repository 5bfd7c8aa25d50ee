"""Checks that two lists of class names are the same, in the same order."""

from ..errors import UserError

NAMED = 3


def check_same_classes(
    one_name: str, one: list[str], other_name: str, other: list[str], cure: str = ""
) -> None:
    """Refuse lists of class names that differ, even if only in order.

    An output is a position in the list: with another order, each class would silently be trained or
    evaluated as another one.

    Args:
        one_name, other_name: what each list belongs to, for the message.
        cure: how to fix it, appended to the message.

    Raises:
        UserError: names the classes that one side lacks, or both lists from their first difference.
    """
    if one == other:
        return
    parts = []
    for name, mine, theirs in ((one_name, one, other), (other_name, other, one)):
        lacking = set(theirs)
        only = [label for label in mine if label not in lacking]
        if only:
            parts.append(f"{len(only)} only in {name} ({few(only)})")
    if not parts:
        same = (mine == theirs for mine, theirs in zip(one, other, strict=False))
        start = next((n for n, agree in enumerate(same) if not agree), min(len(one), len(other)))
        lists = (
            f"{few(names[start:]) or 'no more'} in {name}"
            for name, names in ((one_name, one), (other_name, other))
        )
        parts = [f"their order is another, from class {start + 1} on: {', but '.join(lists)}"]
    problem = "; ".join([*parts, cure] if cure else parts)
    raise UserError(f"{one_name} and {other_name} hold different classes: {problem}")


def few(names: list, most: int = NAMED) -> str:
    """The first names of a list, on one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
