"""How a command ends, alone and as one process of several."""

import pytest
from conftest import run_python

SCRIPT = """
import atexit, sys
from randwire_det import UserError, cli

class TakenDown:
    def __del__(self):
        print("the interpreter was taken down")

def main():
    log = open(sys.argv[1], "w")
    atexit.register(log.close)
    log.write("the last line")
    print("done")
    {ending}

kept = TakenDown()
cli.run(main)
"""
ENDINGS = {
    "return None": (0, ""),
    "return 75": (75, ""),
    "sys.exit(3)": (3, ""),
    "raise UserError('C=0: expected 1 or more')": (1, "error: C=0: expected 1 or more\n"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [1, 2])
def test_a_process_of_several_leaves_before_the_interpreter_is_taken_down(ending, size, tmp_path):
    """gloo's threads abort it there, once in twenty runs on a busy machine; nothing may be lost."""
    status, told = ENDINGS[ending]
    done = run_python(
        *["-c", SCRIPT.format(ending=ending), tmp_path / "log.txt"],
        env={"WORLD_SIZE": str(size), "RANK": "0"},
    )
    assert (done.returncode, done.stderr) == (status, told)
    assert (tmp_path / "log.txt").read_text() == "the last line"
    assert done.stdout.startswith("done\n")
    assert ("taken down" in done.stdout) == (size == 1)
