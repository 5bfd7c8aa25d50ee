"""Which keys of a config tools/train_net.py reads, and so which ones do nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from randwire_det.coco.classes import number_of_outputs
from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.config.files import config_path, flat
from randwire_det.detection.config import read_config
from randwire_det.detection.trainer import RandWireTrainer

DATASET = "one_image"


def unread_keys(config_file: str, folder: Path) -> set[str]:
    """The keys that a config sets, itself or by its bases, and nothing of a training reads.

    The training is built whole, on a data set of one image, but does no iteration.
    Looks at values that serve a refusal alone (`check_run`) do not count.

    Args:
        folder: takes the data set and OUTPUT_DIR.
    """
    _, classes = number_of_outputs(read_config(config_file, []))
    with one_image(folder, classes) as row:
        changes = {
            "MODEL.DEVICE": "cpu",
            "DATASETS.COCO": [row],
            "DATASETS.TRAIN": (DATASET,),
            "DATASETS.TEST": (DATASET,),
            "OUTPUT_DIR": folder / "output",
        }
        overrides = [str(item) for pair in changes.items() for item in pair]
        cfg, read = recorded(read_config(config_file, overrides))
        register_coco_datasets(cfg, str(folder))
        trainer = RandWireTrainer(cfg)
        trainer.resume_or_load(resume=False)
        for name in cfg.DATASETS.TEST:
            trainer.build_test_loader(cfg, name)
            trainer.build_evaluator(cfg, name)
    return set(flat(CfgNode.load_yaml_with_base(config_path(config_file)))) - read


def recorded(cfg: CfgNode) -> tuple[CfgNode, set[str]]:
    """A copy of a config, and the set into which go the names of the keys read from it."""
    read = set()

    class Recorder(CfgNode):
        def __init__(self, init_dict=None, key_list=None, new_allowed=False):
            self.__dict__["path"] = key_list or []
            super().__init__(init_dict, key_list, new_allowed)

        # Attributes come through here, too; a clone, a dump or a comparison does not.
        def __getitem__(self, key):
            read.add(".".join([*self.__dict__["path"], key]))
            return super().__getitem__(key)

    return Recorder(cfg), read


@contextmanager
def one_image(folder: Path, classes: int) -> Iterator[list[str]]:
    """A row of DATASETS.COCO of so many classes; what is registered is forgotten afterwards."""
    box = {"bbox": [8, 8, 40, 40], "area": 1600, "iscrowd": 0}
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "1.png", "width": 96, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, classes + 1)],
    }
    (folder / "one.json").write_text(json.dumps(content))
    try:
        yield [DATASET, "one.json", "."]
    finally:
        DatasetCatalog.pop(DATASET, None)
        MetadataCatalog.pop(DATASET, None)
