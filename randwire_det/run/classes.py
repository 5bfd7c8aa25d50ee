"""Two lists of classes that belong together have the same names in the same order."""

from ..errors import UserError

NAMED = 3


def check_same_classes(
    one_name: str, one: list[str], other_name: str, other: list[str], cure: str = ""
) -> None:
    """Refuse lists of class names that differ, be it in their order alone.

    An output is a position in the list: of another order, each is learned or measured as another
    class, without an error.

    Args:
        one_name, other_name: of what holds each list.
        cure: how to fix it, for the end of the message.

    Raises:
        UserError: names the classes that one side lacks; of another order, both lists from their
            first difference on.
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


def few(names: list[str]) -> str:
    """The first names of a list, in one line."""
    return ", ".join(map(str, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
