"""A model card: what a finished run has trained, on what, how well, and how to use it."""

import platform
from pathlib import Path

import torch

from .. import __version__
from ..printing import one_line
from .checkpoint import Preprocessing
from .files import replace_file

NAME = "model_card.md"  # in an OUTPUT_DIR
OPEN = """## For its owner to fill in

What it is meant for, and what not; whose the data are, their licence, and whom or what they leave
out. One training is one draw: how far another seed would be from it, this run cannot tell.
"""


def write_card(
    output: Path,
    title: str,
    facts: dict[str, object],
    results: dict[str, dict[str, float | None]],
    use: list[str],
) -> Path:
    """Write OUTPUT_DIR/model_card.md.

    Args:
        facts: about the model and its training, by name.
        results: a table: row -> column -> percent, None where there is none.
        use: commands.

    Raises:
        UserError: the file cannot be written.
    """
    facts = facts | {
        "software": f"randwire_det {__version__}, torch {torch.__version__}, Python"
        f" {platform.python_version()}"
    }
    lines = [f"# {_cell(title)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    columns = list(dict.fromkeys(key for row in results.values() for key in row))
    lines += ["", "## Results, in percent", "", f"| | {' | '.join(map(_cell, columns))} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in results.items():
        values = ["" if row.get(key) is None else f"{row[key]:.2f}" for key in columns]
        lines.append(f"| {_cell(name)} | {' | '.join(values)} |")
    lines += ["", "## Use", "", *(f"    {command}" for command in use), "", OPEN]
    text = "\n".join(lines).encode()
    replace_file(output / NAME, lambda file: file.write(text))
    return output / NAME


def described(preprocessing: Preprocessing) -> str:
    """In a cell of the card."""
    return ", ".join(f"{key} {value}" for key, value in preprocessing.to_dict().items())


def _cell(value: object) -> str:
    return one_line(str(value)).replace("|", "\\|")
