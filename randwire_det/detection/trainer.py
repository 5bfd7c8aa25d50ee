"""detectron2's default trainer, with checkpoints that are checked and COCO evaluation."""

import os
import weakref

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from torch import nn

from .checkpointer import RandWireCheckpointer, preprocessing_from_config


class RandWireTrainer(DefaultTrainer):
    """`DefaultTrainer` for a config with a RandWire backbone."""

    def build_hooks(self):
        # The last step of DefaultTrainer.__init__, and the first that uses the checkpointer.
        self.checkpointer = build_checkpointer(
            self.cfg, self._trainer.model, trainer=weakref.proxy(self)
        )
        return super().build_hooks()

    def state_dict(self):
        # v0.6 forgets the optimizer on saving; this is how main keeps it.
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        output = os.path.join(cfg.OUTPUT_DIR, "inference")
        return COCOEvaluator(dataset_name, output_dir=output, use_fast_impl=False)


def build_checkpointer(cfg: CfgNode, model: nn.Module, **checkpointables) -> RandWireCheckpointer:
    """The checkpointer of a config, which knows its preprocessing and its classes."""
    datasets = list(cfg.DATASETS.TRAIN) or list(cfg.DATASETS.TEST)
    return RandWireCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        preprocessing=preprocessing_from_config(cfg),
        classes=MetadataCatalog.get(datasets[0]).get("thing_classes") if datasets else None,
        **checkpointables,
    )
