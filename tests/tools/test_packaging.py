"""`pip install .` gives a wheel that holds the package and its configs, found from anywhere."""

import re
import shutil

import pytest
from conftest import REPO, run_python

SOURCES = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "randwire_det", "configs"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the wheel was installed into, built from a copy of the sources."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("target")
    for name in SOURCES:
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, sources / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", target]
    done = run_python("-m", "pip", "install", *options, sources)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_config_is_found_from_any_directory(installed, tmp_path):
    script = (
        "import randwire_det, randwire_det.config.files as c;"
        "print(randwire_det.__file__, *sorted(str(p.relative_to(c.SHIPPED))"
        " for p in c.SHIPPED.rglob('*.*') if p.suffix != '.pyc'), sep='\\n');"
        "print(c.config_path('faster_rcnn_randwire_c109.yaml'))"
    )
    done = run_python("-c", script, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr
    package, *configs, found = done.stdout.splitlines()
    assert package == str(installed / "randwire_det" / "__init__.py")
    shipped = REPO / "configs"
    files = [path for kind in ("*.yaml", "*.py") for path in shipped.rglob(kind)]
    assert configs == sorted(str(path.relative_to(shipped)) for path in files)
    assert found.startswith(str(installed))


def test_it_installs_nothing_else_at_the_top(installed):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"randwire_det"}


def test_users_get_ranges_and_the_licence(installed):
    (info,) = installed.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    for name in ("torch", "torchvision", "numpy", "networkx", "fvcore", "pycocotools"):
        assert re.search(rf"^Requires-Dist: {name}[<>]", metadata, re.MULTILINE), name
    for extra in ("demo", "dev", "sweep"):
        assert f"Provides-Extra: {extra}" in metadata
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text(encoding="utf-8")
