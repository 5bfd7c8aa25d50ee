"""The README's code runs as it stands, and its figures are what the tools print."""

import os
import re

import pytest
from conftest import REPO, run_python, run_tool
from PIL import Image

from randwire_det.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow_suite

README = (REPO / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_snippets_to_run():
    assert len(SNIPPETS) >= 2


# What a project does next with the config of the first snippet, on data of one small image.
WARNING = 'set INPUT.FORMAT "RGB"'
TRAINING = """
import sys
from pathlib import Path

import yaml
from config_reading import one_image
from detection_helpers import TINY, as_overrides
from detectron2.engine import DefaultTrainer, default_setup
from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.detection.trainer import RandWireTrainer

folder = Path(sys.argv[1])
with one_image(folder, 1) as row:
    changes = {"DATASETS.COCO": [row], "DATASETS.TRAIN": (row[0],), "DATASETS.TEST": (row[0],)}
    changes |= {"INPUT.MIN_SIZE_TRAIN": (64,), "DATALOADER.NUM_WORKERS": 0}
    changes |= {"SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": ()}
    changes |= {"MODEL.ROI_HEADS.NUM_CLASSES": 1}
    cfg.merge_from_list(as_overrides(TINY | changes | {"OUTPUT_DIR": folder / "run"}))
    register_coco_datasets(cfg, str(folder))
    default_setup(cfg, None)
    trainer = RandWireTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()

    again = get_cfg()
    add_randwire_config(again)
    again.merge_from_file(str(folder / "run" / "config.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())

    assert sys.argv[2] not in (folder / "run" / "log.txt").read_text()

    # detectron2's own trainer in its own preprocessing, from those weights.
    weights = str(folder / "run/model_final.pth")
    again.merge_from_list(["INPUT.FORMAT", "BGR", "MODEL.WEIGHTS", weights])
    again.OUTPUT_DIR = str(folder / "stock")
    default_setup(again, None)
    trainer = DefaultTrainer(again)
    trainer.resume_or_load(resume=False)
    trainer.train()
"""


def test_its_config_trains_is_read_back_and_warns_in_a_stock_trainer(tmp_path):
    script = tmp_path / "training.py"
    script.write_text(SNIPPETS[0] + TRAINING, encoding="utf-8")
    Image.new("RGB", (96, 64)).save(tmp_path / "1.png")
    paths = os.pathsep.join([str(REPO), str(REPO / "tests")])
    done = run_python(script, tmp_path, WARNING, cwd=tmp_path, env={"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert "p6" in done.stdout
    assert load_checkpoint(tmp_path / "run/model_final.pth").rest["iteration"] == 1
    assert WARNING in (tmp_path / "stock/log.txt").read_text()
    assert (tmp_path / "stock/model_final.pth").is_file()


@pytest.mark.parametrize("number", range(1, len(SNIPPETS)))
def test_snippet_runs_from_any_directory(tmp_path, number):
    script = tmp_path / "snippet.py"
    script.write_text(SNIPPETS[number], encoding="utf-8")
    done = run_python(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "conv5" in done.stdout


@pytest.mark.parametrize("row", re.findall(r"^\| (?:small|regular), C=.*", README, re.MULTILINE))
def test_the_table_of_counts_is_what_the_tool_prints(row):
    regime, channels, params, macs = re.match(
        r"\| (\w+), C=(\d+) \| (.*?) / .*? \| (.*?) / ", row
    ).groups()
    options = ["--k", 4, "--p", 0.75, "--regime", regime, "--channels", channels]
    (mean,) = [
        line
        for line in run_tool("analyze_model.py", *options).stdout.splitlines()
        if line.split()[0] == "mean"
    ]
    assert params in mean
    assert macs in mean


def slugs(text):
    """The anchors that a Markdown page's headings get."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target.read_text(encoding="utf-8")), link


def test_every_tool_it_names_is_there():
    for tool in re.findall(r"python (tools/\w+\.py)", README):
        assert (REPO / tool).exists(), tool
