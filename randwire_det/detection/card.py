"""The model card of a finished training of a detector."""

from pathlib import Path

from ..run.card import described, write_card
from ..run.classes import few
from ..tables.detection import read_record
from .preprocessing import preprocessing_from_config
from .trainer import RandWireTrainer

FINAL = "model_final.pth"


def write_model_card(trainer: RandWireTrainer) -> None:
    """Write OUTPUT_DIR/model_card.md about model_final.pth and the latest evaluation, if any.

    Raises:
        UserError: the file cannot be written.
    """
    cfg, spec = trainer.cfg, trainer.checkpointer.spec
    output, solver, classes = Path(cfg.OUTPUT_DIR), cfg.SOLVER, trainer.checkpointer.classes or []
    title, results = cfg.MODEL.META_ARCHITECTURE, {}
    if cfg.DATASETS.TEST:
        record = read_record(output)
        title = f"{record['network']}, {record['detector']}"
        results = {
            f"{name}, {task}": measured["metrics"]
            for name, entry in record["datasets"].items()
            for task, measured in entry["tasks"].items()
        }
    facts = {
        "network": spec.describe() if spec else cfg.MODEL.BACKBONE.NAME,
        "parameters": f"{sum(each.numel() for each in trainer.model.parameters()):,}",
        "trained on": ", ".join(cfg.DATASETS.TRAIN),
        "classes": f"{len(classes)}: {few(classes, 20)}" if classes else "without names",
        "recipe": f"{trainer.done:,} of {solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH}"
        f" images, learning rate {solver.BASE_LR:g}, weight decay {solver.WEIGHT_DECAY:g};"
        " config.yaml has the rest",
        "started from": cfg.MODEL.WEIGHTS or "random weights",
        "seed": cfg.SEED,
        "preprocessing": described(preprocessing_from_config(cfg)),
    }
    use = [
        f"python tools/predict.py --weights {output / FINAL} --input photos",
        f"python tools/export.py {output / FINAL} --to onnx",
    ]
    write_card(output, f"{title}, a detector", facts, results, use)
