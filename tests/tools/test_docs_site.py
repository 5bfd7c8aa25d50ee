"""The docs build as a site, and the tutorial's config is one."""

import re

import pytest
import yaml
from conftest import REPO, run_python

from randwire_det.detection.config import read_config

pytestmark = pytest.mark.slow_suite


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="mkdocs-material needs Python 3.11")
    options = ["--strict", "--site-dir", tmp_path / "site", "--config-file", REPO / "mkdocs.yml"]
    done = run_python("-m", "mkdocs", "build", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (REPO / "docs").glob("*.md"):
        name = "" if page.stem == "index" else page.stem
        built = (tmp_path / "site" / name / "index.html").read_text(encoding="utf-8")
        assert re.search(r"<h1[^>]*>", built), page
        assert "](../" not in built
    assert "freeze_at" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")


def test_the_tutorials_config_is_read(tmp_path):
    page = (REPO / "docs/tutorial.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "blood.yaml").write_text(text)
    cfg = read_config(str(tmp_path / "blood.yaml"), [])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3 and cfg.DATASETS.TRAIN == ("blood_train",)


def test_what_a_public_host_reads_is_yaml():
    files = sorted((REPO / ".github").rglob("*.yml"))
    assert len(files) == 3
    for path in files:
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path
