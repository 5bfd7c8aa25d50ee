"""Top-1 and top-5 accuracy, over all processes, every image exactly once."""

import torch
from torch import nn

from randwire_det.errors import UserError
from randwire_det.network.fusing import fuse
from randwire_det.run.parallel import World

from .data import Loader, Normalise, in_order
from .log import logger


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    normalise: Normalise,
    loader: Loader,
    *,
    batch_size: int,
    world: World,
) -> dict[str, float]:
    """Test a model on all images of the loader's data set.

    Args:
        batch_size: per rank.

    Returns:
        {"top1", "top5", "images", "bad_images"}: accuracies in percent; the number of images that
        were tested, and of unreadable ones that were left out and logged. Images with NaN or
        infinity in the logits count as wrong, with a warning.

    Raises:
        UserError: no image can be read.
        AskedToStop: the run was asked to stop before the last batch; raised on all ranks.
    """
    model = fuse(model)
    counted, bad = world.together(lambda: _count(model, normalise, loader, batch_size, world))
    *hits, broken, images = world.sum(torch.tensor(counted)).tolist()
    bad = world.gather(bad)
    for path in bad:
        logger.warning(f"left out {path}: cannot be read as an image")
    world.together(lambda: _check_any(images, bad))
    if broken:
        logger.warning(f"NaN or infinity as output for {broken} of {images} images: counted wrong")
    top1, top5 = (100 * count / images for count in hits)
    return {"top1": top1, "top5": top5, "images": images, "bad_images": len(bad)}


def _check_any(images: int, bad: list[str]) -> None:
    if images == 0:
        raise UserError(f"{bad[0]} and all other test images cannot be read: is the disk there?")


def _count(model, normalise, loader, batch_size, world) -> tuple[list[int], list[str]]:
    """Counts of this rank's share: top-1 hits, top-5 hits, images with non-finite logits, images;
    and the paths of the unreadable images."""
    dataset = loader.dataset
    top = min(5, len(dataset.classes))
    mine = in_order(len(dataset))[world.rank :: world.size]
    batches = [mine[at : at + batch_size] for at in range(0, len(mine), batch_size)]
    counts = torch.zeros(3, dtype=torch.int64, device=normalise.mean.device)
    images, bad = 0, []
    for batch in loader(batches):
        bad += batch.bad
        if len(batch.labels):
            images += len(batch.labels)
            logits = model(normalise(batch.images))
            finite = logits.isfinite().all(dim=1, keepdim=True)
            ranked = logits.topk(top).indices
            correct = finite & (ranked == batch.labels.to(ranked.device).unsqueeze(1))
            counts += torch.stack([correct[:, 0].sum(), correct.sum(), (~finite).sum()])
    return [*counts.tolist(), images], bad
