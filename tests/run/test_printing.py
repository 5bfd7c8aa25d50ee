"""Names from files reach a terminal as text: no colours, no clearing of the screen, one line."""

import pytest
from conftest import run_python

from randwire_det.printing import one_line, printable

HOSTILE = {
    "colour": "\x1b[31mred",
    "C1 control": "\x9b2J",
    "bell": "\a",
    "carriage return": "right\rwrong",
    "reversed": "\u202ecod.exe",
    "half a character": "\ud83d",
    "DEL": "\x7f",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_terminal_would_obey_is_written_out(name):
    shown = printable(f"a {HOSTILE[name]} z")
    assert shown.startswith("a ") and shown.endswith(" z") and "\\" in shown
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    "text", ["plain", "螺母 ünï", "two\nlines\tof", "मराठी", "👩\u200d🔧", "a\u00a0b"]
)
def test_text_of_any_script_stays_as_it_is(text):
    assert printable(text) == text
    assert "\n" not in one_line(text)


SCRIPT = """
import logging
from randwire_det import UserError
from randwire_det.run import cli

def main():
    logging.basicConfig(format="%(message)s")
    logging.getLogger("randwire_det.x").warning("met %s", "a\\x1b[2Jb")
    logging.getLogger("another").warning("a\\x1b[0mb")
    raise UserError("images/a\\x1b[2J\\nb.jpg: gone")

cli.run(main)
"""


def test_a_command_says_it_in_one_line_whatever_a_name_holds():
    done = run_python("-c", SCRIPT)
    assert done.returncode == 1
    ours, others, error = done.stderr.splitlines()
    assert ours == r"met a\x1b[2Jb" and others == "a\x1b[0mb"
    assert error == r"error: images/a\x1b[2J\nb.jpg: gone"
