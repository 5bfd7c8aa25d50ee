"""Compares an exported file with the network that it was made from, on pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou

from .exportable import Exportable
from .formats import Run

OVERLAP = 0.5  # by which a detection is found again
PIXELS, SCORE = 0.1, 1e-3  # by which the same detection may differ
LOGIT = 1e-3  # of the largest logit
# Proposals of equal scores may be ranked in another order, and a detection then comes from the
# neighbouring proposal: all but this part are the same, all but LOST are found again.
OTHERS, LOST = 0.1, 0.01


@dataclass
class Parity:
    """What the comparison found; `lines` are for people.

    Attributes:
        agrees: within the tolerance.
        lines: what was compared and how far apart it is.
    """

    agrees: bool
    lines: list[str]


@torch.no_grad()
def compare_detectors(network: Exportable, run: Run, pictures: Iterable[Path]) -> Parity:
    """Boxes, scores and classes (and masks) of the file against the network as trained."""
    count = same = detections = lost = equal = 0
    box = score = mask = 0.0
    roughly = []  # of every detection that is found again: how far the scores are apart
    for path in pictures:
        image = network.read(path)
        ours, theirs = network.original(image), run(image)
        count, detections = count + 1, detections + len(ours[0])
        equal += len(ours[1]) - len(ours[1].unique())
        pairs, near = _pairs(ours, theirs), _overlapping(ours, theirs)
        roughly += [float((ours[1][i] - theirs[1][j]).abs()) for i, j in near]
        lost += len(ours[0]) - len({i for i, _ in pairs} | {i for i, _ in near})
        for pair in pairs:
            same += 1
            mine, other = [each[pair[0]] for each in ours], [each[pair[1]] for each in theirs]
            box = max(box, float((mine[0] - other[0]).abs().max()))
            score = max(score, float((mine[1] - other[1]).abs()))
            if len(mine) > 3:
                mask = max(mask, float((mine[3] - other[3]).abs().max()))
    found = f"{count} pictures: {same} of {detections} detections are the same (class; box within"
    lines = [f"{found} {PIXELS} pixels, score within {SCORE})"]
    if same:
        masks = f", {mask:.1e} of a mask's probability" if len(network.outputs) > 3 else ""
        lines.append(f"largest differences: {box:.1e} pixels, {score:.1e} of a score{masks}")
    if same < detections:
        lines.append(
            f"{len(roughly)} of {detections} detections are found again, of the same class and with"
            f" an IoU of {OVERLAP} or more; their scores differ by"
            f" {sum(roughly) / max(1, len(roughly)):.3f} on average"
        )
    if equal > OTHERS * detections:
        lines.append(
            f"{equal} of {detections} detections have the score of another one: the detector does"
            " not tell its boxes apart, and which of them it keeps is by chance; train it longer"
        )
    if not detections:
        lines.append("nothing was compared: no detections; --pictures of what it detects would")
    few_others = detections - same <= max(1, OTHERS * detections)
    return Parity(few_others and lost <= LOST * detections, lines)


def _pairs(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Indices of equal detections, each used once."""
    pairs, free = [], torch.ones(len(theirs[0]), dtype=torch.bool)
    for index, (box, score, label) in enumerate(zip(*ours[:3], strict=True)):
        near = (theirs[0] - box).abs().amax(dim=1) <= PIXELS
        near &= ((theirs[1] - score).abs() <= SCORE) & (theirs[2] == label) & free
        if near.any():
            other = int(near.nonzero()[0])
            free[other] = False
            pairs.append((index, other))
    return pairs


def _overlapping(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Indices of detections of one class that overlap, the best of each first, each used once."""
    overlap = box_iou(ours[0], theirs[0]) * (ours[2][:, None] == theirs[2][None])
    pairs = []
    for index in range(len(ours[0])):  # by descending score
        if len(theirs[0]) and float(overlap[index].max()) >= OVERLAP:
            other = int(overlap[index].argmax())
            overlap[:, other] = 0
            pairs.append((index, other))
    return pairs


@torch.no_grad()
def compare_classifiers(network: Exportable, run: Run, pictures: Iterable[Path]) -> Parity:
    """Logits of the file against the network as trained; and both accuracies, where the pictures
    lie in folders named as the classes."""
    classes = network.metadata["classes"]
    count = same = labelled = right = right_exported = 0
    difference = largest = 0.0
    for path in pictures:
        image = network.read(path)
        ours, (theirs,) = network.original(image), run(image)
        count += 1
        difference = max(difference, float((ours - theirs).abs().max()))
        largest = max(largest, float(ours.abs().max()))
        first, first_exported = int(ours.argmax()), int(theirs.argmax())
        same += first == first_exported
        if path.parent.name in classes:
            label, labelled = classes.index(path.parent.name), labelled + 1
            right, right_exported = (
                right + (first == label),
                right_exported + (first_exported == label),
            )
    lines = [
        f"{count} pictures: the same class for {same}; largest difference of a logit"
        f" {difference:.1e}, largest logit {largest:.1f}"
    ]
    if labelled:
        lines.append(
            f"top-1 on the {labelled} pictures in folders of classes: {100 * right / labelled:.2f}"
            f" % as trained, {100 * right_exported / labelled:.2f} % exported"
        )
    return Parity(difference <= LOGIT * max(largest, 1.0), lines)


def compare(network: Exportable, run: Run, pictures: Iterable[Path]) -> Parity:
    """Run the file and the network as trained on pictures.

    Args:
        run: of `formats.open_file`.
        pictures: their paths; each is read as in an evaluation.
    """
    function = compare_detectors if network.is_detector else compare_classifiers
    return function(network, run, pictures)
