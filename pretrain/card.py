"""The model card of a finished pretraining."""

from fvcore.common.config import CfgNode

from randwire_det.run.card import described, write_card
from randwire_det.run.classes import few
from randwire_det.spec.complexity import Complexity
from randwire_det.tables.names import randwire_name

from . import recipe, resume
from .config import test_size
from .engine import Trainer


def write_model_card(trainer: Trainer, count: Complexity, val_images: int) -> None:
    """Write OUTPUT_DIR/model_card.md.

    Args:
        count: of the network, at the size of a test.
        val_images: of the final test.

    Raises:
        UserError: the file cannot be written.
    """
    cfg, spec, progress = trainer.cfg, trainer.spec, trainer.progress
    final, classes = trainer.output / resume.FINAL, trainer.train_data.classes
    size, name = test_size(cfg), randwire_name(spec) if spec else cfg.MODEL.NAME
    network = spec.describe() if spec else f"{name}, width {cfg.MODEL.WIDTH}"
    facts = {
        "network": network,
        "parameters": f"{count.params:,}",
        "multiply-adds": f"{count.macs:,} at {size} x {size}",
        "trained on": f"{progress.train_images:,} images in {cfg.DATA.ROOT}/train",
        "classes": f"{len(classes)}: {few(classes, 20)}",
        "recipe": _recipe(cfg),
        "seed": cfg.SEED,
        "preprocessing": described(recipe.preprocessing_from_cfg(cfg)),
    }
    accuracies = {"top-1": progress.top1, "top-5": progress.top5}
    use = [f"python tools/convert_baseline.py {final}"]
    if spec:
        use = [
            "python tools/train_net.py --config-file faster_rcnn_randwire_c109.yaml"
            f" MODEL.RANDWIRE.SPEC {final} MODEL.WEIGHTS {final}",
            f"python tools/export.py {final} --to onnx",
        ]
    results = {f"{val_images:,} images of {cfg.DATA.ROOT}/val": accuracies}
    write_card(trainer.output, f"{name}, a classifier", facts, results, use)


def _recipe(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    return (
        f"{solver.EPOCHS} epochs of {solver.BATCH_SIZE} images a step, learning rate"
        f" {solver.BASE_LR:g}, weight decay {solver.WEIGHT_DECAY:g}; config.yaml has the rest"
    )
