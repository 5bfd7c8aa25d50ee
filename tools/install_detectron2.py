#!/usr/bin/env python3
"""Install detectron2 without a compiler: official v0.6's Python files, plus the few edits that let
them run on today's numpy, Pillow, setuptools and torch.

The package index has neither a `detectron2` project nor a wheel. `pb1-detectron2` there holds
v0.6's Python files and model-zoo configs byte for byte, but not the C++ sources, so pip cannot
build it. Faster R-CNN, Mask R-CNN and RetinaNet need none of those: RoIAlign and NMS are
torchvision's. This script turns that sdist into a pure-Python wheel, edit by edit, and installs it.
As in v0.6's setup.py, detectron2.projects has deeplab, point_rend and panoptic_deeplab; the last of
them imports panopticapi, which it does not install.
"""

import argparse
import base64
import functools
import hashlib
import importlib.util
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import NamedTuple

SDIST = "pb1-detectron2==0.6"
# As in v0.6's setup.py: folders of the sdist that are installed as packages of another place.
PROJECTS = {
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
}
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
WHEEL = "detectron2-0.6-py3-none-any.whl"


class Edit(NamedTuple):
    """In `file` the text `old` stands exactly `count` times; each becomes `new`."""

    file: str
    count: int
    old: str
    new: str
    why: str


NP_ALIAS = "np.int, np.float and np.str are gone since numpy 1.24"
NP_BOOL = "np.bool is missing from numpy 1.24 to 1.26"
NO_PKG_RESOURCES = "pkg_resources is gone since setuptools 82"

# fmt: off
EDITS = (
    Edit("detectron2/data/build.py", 2, "dtype=np.int", "dtype=int", NP_ALIAS),
    Edit("detectron2/data/datasets/pascal_voc.py", 1, "dtype=np.str", "dtype=str", NP_ALIAS),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", 2, "dtype=np.int)", "dtype=int)", NP_ALIAS),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", 5, "np.float)", "float)", NP_ALIAS),
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", 2, "np.bool)", "bool)", NP_BOOL),
    Edit("detectron2/structures/masks.py", 3, "np.bool)", "bool)", NP_BOOL),
    Edit("detectron2/utils/visualizer.py", 3, "np.bool)", "bool)", NP_BOOL),
    Edit("detectron2/utils/video_visualizer.py", 1, "np.bool)", "bool)", NP_BOOL),
    Edit("detectron2/data/transforms/transform.py", 1, "Image.LINEAR", "Image.BILINEAR",
         "Image.LINEAR is gone since Pillow 10"),
    Edit("detectron2/model_zoo/model_zoo.py", 1, "import pkg_resources\n", "", NO_PKG_RESOURCES),
    Edit("detectron2/model_zoo/model_zoo.py", 1,
         "pkg_resources.resource_filename(\n"
         '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
         'os.path.join(os.path.dirname(__file__), "configs", config_path)',
         NO_PKG_RESOURCES),
    Edit("detectron2/data/common.py", 1,
         "self._rng.sample(self._fallback_candidates, k=1)",
         "self._rng.sample(list(self._fallback_candidates), k=1)",
         "random.sample() takes no set since Python 3.11"),
    Edit("detectron2/engine/hooks.py", 2,
         "torch.optim.lr_scheduler._LRScheduler", "torch.optim.lr_scheduler.LRScheduler",
         "torch's own schedulers derive from _LRScheduler no more, so none was saved or resumed"),
    Edit("detectron2/export/__init__.py", 1,
         "from .api import *\n",
         "try:\n    from caffe2.python import core as _core\nexcept ImportError:\n    pass\n"
         "else:\n    from .api import *\n",
         "caffe2 is gone from torch; tracing, scripting and utils/analysis.py need none of it"),
    Edit("detectron2/layers/nms.py", 1,
         "    return torch.ops.detectron2.nms_rotated(",
         "    from detectron2 import _C\n\n    return _C.nms_rotated(",
         "without the compiled op, say so instead of 'no attribute nms_rotated'"),
    Edit("detectron2/evaluation/fast_eval_api.py", 1,
         "from detectron2 import _C\n",
         "from detectron2 import _C\n\n_C.COCOevalEvaluateImages  # an ImportError without it\n",
         "without its compiled ops it must not import, so that others can fall back"),
    Edit("detectron2/evaluation/coco_evaluation.py", 1,
         "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
         "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
         "except ImportError:\n    COCOeval_opt = COCOeval\n",
         "without the compiled COCOeval, take pycocotools' own, as detectron2's main does"),
)
# fmt: on

# The one new file. With it the layers import `_C` unedited and complain on use, naming the op. Its
# error is an ImportError because that is what `from detectron2._C import op` must end in.
STAND_IN = "detectron2/_C.py"
STAND_IN_TEXT = '''\
"""Stands in for detectron2's compiled ops: this is the pure-Python build, which has none.

Importing it is free; asking it for an op raises an ImportError that names the op.
"""


def get_compiler_version():  # this and the next one are for utils/collect_env.py
    return "none: this is the pure-Python build"


get_cuda_version = get_compiler_version


def has_cuda():
    return False


def __getattr__(name):
    # Python itself asks for dunders (__path__, __all__, ...) and must hear "no such attribute".
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(
        f"detectron2._C.{name} is a compiled op, and this detectron2 is the pure-Python build of "
        "v0.6, which has none (rotated boxes, ROIAlignRotated, deformable convolution). To get "
        "them, pip uninstall detectron2 and build its main branch from source: pip install "
        "--no-build-isolation git+https://github.com/facebookresearch/detectron2"
    )
'''

# What v0.6's setup.py asks for, less what only its caffe2 export (future, pydot) and its
# LazyConfig.to_py (black) import, plus OpenCV, which utils/visualizer.py imports. As with v0.6,
# torch and torchvision are up to the user.
REQUIRES = """
Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle
tqdm>4.29.0 tensorboard fvcore>=0.1.5,<0.1.6 iopath>=0.1.7,<0.1.10 omegaconf>=2.1 hydra-core>=1.1
opencv-python-headless
"""
METADATA = """\
Metadata-Version: 2.1
Name: detectron2
Version: 0.6
Summary: The Python part of official detectron2 v0.6 with {edits} edits, without compiled ops
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
Requires-Python: >=3.10
{requires}
"""
WHEEL_TAGS = """\
Wheel-Version: 1.0
Generator: install_detectron2.py
Root-Is-Purelib: true
Tag: py3-none-any
"""


class Failure(Exception):
    """The message to the user, one line."""


def installed() -> str | None:
    """Describe the detectron2 this interpreter imports; None if there is none."""
    probe = """
import importlib.util, json, sys
sys.path[:] = [p for p in sys.path if p]  # a checkout in the current folder is no installation
spec = importlib.util.find_spec("detectron2")
found = None
if spec and spec.origin:  # without an origin it is only a folder that an uninstall left behind
    import detectron2
    try:
        from detectron2 import _C
        compiled = not _C.__file__.endswith(".py")
    except ImportError:
        compiled = False
    found = [detectron2.__version__, detectron2.__path__[0], compiled]
print(json.dumps(found))
"""
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise Failure(
            f"a detectron2 is installed but does not import ({reason[0]}): repair it, or first run "
            "pip uninstall detectron2"
        )
    found = json.loads(result.stdout.splitlines()[-1])
    if found is None:
        return None
    version, path, compiled = found
    return f"detectron2 {version} at {path}, {'with' if compiled else 'without'} compiled ops"


def require(*modules: str) -> None:
    missing = " ".join(module for module in modules if not importlib.util.find_spec(module))
    if missing:
        raise Failure(f"{sys.executable} lacks what this needs; first run: pip install {missing}")


def pip(command: str, *arguments: str | Path) -> None:
    call = [sys.executable, "-m", "pip", command, "--no-input", *map(str, arguments)]
    result = subprocess.run(call, stdout=PIPE, stderr=STDOUT, text=True, errors="replace")
    if result.returncode:
        lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
        while len(lines) > 1 and not lines[0].lower().startswith("error"):
            del lines[0]
        raise Failure(f"pip {command} failed; is its index within reach? {' '.join(lines)}")


def download(folder: Path) -> Path:
    """Fetch the sdist into `folder` from whatever index pip is set up with."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
    # pip runs the sdist's setup.py for its metadata, and that imports torch: hence no isolation.
    exactly = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes")
    try:
        pip("download", *exactly, "--requirement", requirements, "--dest", folder)
    except Failure as failure:
        if "direct URL" not in str(failure):
            raise
        raise Failure(
            f"pip 26.3 and later refuse {SDIST}, because an extra of it that nothing here uses "
            "names a URL; first run: python -m pip install 'pip<26.3', or get the file yourself "
            "and give it with --sdist"
        ) from failure
    return next(folder.glob("*.tar.gz"))


def python_part(sdist: Path) -> dict[str, bytes]:
    """The sdist's LICENSE, all of its detectron2/ and the projects that v0.6 packages with it, by
    the name they are installed under; refuses any other sdist."""
    data = sdist.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != SDIST_SHA256:
        raise Failure(f"{sdist} is not {SDIST}: sha256 {sha256}, expected {SDIST_SHA256}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            for folder, package in PROJECTS.items():
                if name.startswith(folder):
                    name = package + name.removeprefix(folder)
            if member.isfile() and (name == "LICENSE" or name.startswith("detectron2/")):
                files[name] = archive.extractfile(member).read()
    return files


def apply_edits(files: dict[str, bytes], edits: tuple[Edit, ...] = EDITS) -> dict[str, bytes]:
    """`files` after `edits`, each edited one ending in a notice of it (Apache-2.0, section 4b)."""
    files = dict(files)
    notices: dict[str, list[str]] = {}
    for i, edit in enumerate(edits, 1):
        text = files.get(edit.file, b"").decode()
        if text.count(edit.old) != edit.count:
            raise Failure(
                f"edit of {edit.file}: expected {edit.count} x {edit.old!r}, "
                f"found {text.count(edit.old)}"
            )
        files[edit.file] = text.replace(edit.old, edit.new).encode()
        notices.setdefault(edit.file, []).append(edit.why)
        print(f"edit {i}/{len(edits)}: {edit.file}: {edit.why}", flush=True)
    for file, whys in notices.items():
        notice = "; ".join(dict.fromkeys(whys))
        files[file] += f"\n# Changed from official detectron2 v0.6: {notice}.\n".encode()
    return files


def build_wheel(sdist: Path, folder: Path, edits: tuple[Edit, ...] = EDITS) -> Path:
    """Write the wheel into `folder`, whole or not at all; the same bytes every time."""
    files = apply_edits(python_part(sdist), edits)
    files[STAND_IN] = STAND_IN_TEXT.encode()
    info = "detectron2-0.6.dist-info/"
    files[info + "LICENSE"] = files.pop("LICENSE")
    requires = "\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIRES.split())
    files[info + "METADATA"] = METADATA.format(edits=len(edits), requires=requires).encode()
    files[info + "WHEEL"] = WHEEL_TAGS.encode()
    record = ""
    for name, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    files[info + "RECORD"] = f"{record}{info}RECORD,,\n".encode()

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # Stored, not deflated: another zlib would write other bytes.
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)

    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / WHEEL
    unfinished = folder / f".{WHEEL}.{os.getpid()}"
    try:
        unfinished.write_bytes(buffer.getvalue())
        unfinished.replace(wheel)
    finally:
        unfinished.unlink(missing_ok=True)
    return wheel


def run(sdist: Path | None, wheel_dir: Path | None, constraint: Path | None) -> None:
    if not wheel_dir:
        if found := installed():
            print(f"left alone: {found}")
            return
        require("torch", "torchvision")  # detectron2 imports both
    if not sdist:
        require("torch", "setuptools")  # so does the sdist's setup.py
    with tempfile.TemporaryDirectory() as scratch:
        if not sdist:
            print(f"downloading {SDIST}", flush=True)
            sdist = download(Path(scratch))
        wheel = build_wheel(sdist, wheel_dir or Path(scratch))
        print(f"built {wheel}", flush=True)
        if wheel_dir:
            return
        print("installing it and what it needs", flush=True)
        pip("install", wheel, *(("--constraint", constraint) if constraint else ()))
    if not (found := installed()):
        raise Failure("pip installed it where this interpreter does not look")
    print(f"installed: {found}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="A detectron2 that is already installed is left alone.\n\n"
        "example:\n  pip install torch torchvision\n  python tools/install_detectron2.py",
    )
    add = functools.partial(parser.add_argument, type=Path)
    add("--sdist", metavar="FILE", help=f"a local copy of {SDIST} (default: pip downloads it)")
    add("--wheel-dir", metavar="DIR", help="only build the wheel, into DIR (default: install it)")
    add("--constraint", metavar="FILE", help="passed on to pip install (default: none)")
    args = parser.parse_args()
    if args.wheel_dir and args.constraint:
        parser.error("--constraint is for installing, and --wheel-dir installs nothing")
    for file in (args.sdist, args.constraint):
        if file and not file.is_file():
            parser.error(f"no such file: {file}")
    try:
        run(args.sdist, args.wheel_dir, args.constraint)
    except (Failure, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
