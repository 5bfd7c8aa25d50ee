"""What the tests of studies share: a study of the tiny pretraining on `colours`."""

from pathlib import Path

import yaml
from conftest import REPO, run_tool, start_python
from pretrain_helpers import tiny_file


def study_file(colours, folder, **changes):
    """A study in `folder`, whose runs go into folder/study; seed 0 is `unbroken`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "COMMAND": "pretrain_imagenet",
        "CONFIG": tiny_file(colours, folder / "run"),
        "OUTPUT_DIR": str(folder / "study"),
        "SEEDS": [0],
        "SEED_KEYS": ["SEED"],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path


def sweep(*args):
    """tools/sweep.py to its end."""
    return run_tool("sweep.py", *args, timeout=240)


def start_sweep(*args):
    """tools/sweep.py as a process that runs on."""
    return start_python(REPO / "tools" / "sweep.py", *args)


def training_of(folder: Path) -> int | None:
    """The process that trains into a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if str(folder).encode() in command and any(
            b"pretrain_imagenet" in part for part in command
        ):
            return int(path.parent.name)
    return None


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoint_*.pth"))
