"""A process that has imported what the tools import, and forks for every command it is given.

A tool takes four seconds to import torch and detectron2, and the tests run hundreds of tools. Each
still has a process of its own, which ends as any other does. Nothing but imports happens before
the fork. A line of stdin is a command as JSON, the line of stdout that follows its exit status.
"""

import atexit
import json
import os
import runpy
import signal
import sys
import traceback
import warnings


def next_command() -> dict | None:
    """In a forked process: what it is to run. None once stdin has ended."""
    for line in iter(sys.stdin.readline, ""):
        if (pid := os.fork()) == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def become(command: dict) -> None:
    """The argv, environment, folder and streams of `command`; SIGALRM when its time is over."""
    files = [os.devnull, command["stdout"], command["stderr"]]
    for stream, path in enumerate(files):
        file = os.open(path, os.O_RDWR)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ |= command["env"]
    os.chdir(command["cwd"])
    sys.argv = command["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    signal.alarm(command["timeout"])


def run(script: str) -> int:
    """As `python script`; its exit status. Taking the interpreter down afterwards takes seconds."""
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except SystemExit as leaving:
        return leaving.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision uses torch.jit.script
        import randwire_det.coco.report
        import randwire_det.detection.predict
        import randwire_det.detection.trainer  # noqa: F401

    if command := next_command():
        become(command)
        os._exit(run(sys.argv[0]))
