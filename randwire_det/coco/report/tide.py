"""AP50 lost to each of the six kinds of error of TIDE (Bolya et al. 2020).

Each wrong detection has one kind; an object is missed if no detection could be corrected to match
it. The cost of a kind is the AP50 gained if an oracle corrects that kind alone (section 2.3 there).
"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from .matches import IOU, Matches, positions

BACKGROUND_IOU = 0.1  # below it a detection is unrelated to an object
RECALLS = np.linspace(0, 1, 101)
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLS, LOC, BOTH, DUP, BKG, MISS = range(6)


@dataclass(frozen=True)
class Breakdown:
    """The errors of an evaluation, D detections and G objects in the order of its `Matches`."""

    ap50: float  # percent; equals COCOeval's
    counts: dict[str, int]  # by the names in KINDS
    gains: dict[str, float]  # AP50 gained by correcting that kind alone, in points of percent
    kind: np.ndarray  # (D,) index into KINDS, -1 where a detection is no error
    missed: np.ndarray  # (G,) bool


def break_down(matches: Matches) -> Breakdown:
    """Sort the errors of an evaluation into kinds and correct each in turn."""
    kind, target = _kinds(matches)
    missed = ~matches.object_crowd & ~matches.object_found
    missed[target[target >= 0]] = False  # found by correcting that detection
    base = _ap50(matches)
    counts = np.bincount(kind[kind >= 0], minlength=len(KINDS))
    counts[MISS] = missed.sum()
    gains = [_mended(matches, kind == number, target) - base for number in range(MISS)]
    rest = _ap50(matches, objects=_objects(matches, ~missed))
    # A class all of whose objects were missed drops out of the mean; with no class left, nothing is
    # left to find.
    gains.append((100.0 if np.isnan(rest) and missed.any() else rest) - base)
    return Breakdown(
        ap50=base,
        counts=dict(zip(KINDS, counts.tolist(), strict=True)),
        gains=dict(zip(KINDS, gains, strict=True)),
        kind=kind,
        missed=missed,
    )


def _kinds(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """For each detection its kind of error and the intended object; -1 for none."""
    kind, target = (np.full(len(matches.score), -1) for _ in range(2))
    wrong = np.flatnonzero(~matches.correct & ~matches.ignored)
    plain = np.flatnonzero(~matches.object_crowd)
    count = len(matches.images)
    for ours, theirs in zip(
        positions(matches.image[wrong], count),
        positions(matches.object_image[plain], count),
        strict=True,
    ):
        ours, theirs = wrong[ours], plain[theirs]
        if not len(theirs):
            kind[ours] = BKG
        elif len(ours):
            iou = mask.iou(matches.box[ours], matches.object_box[theirs], [0] * len(theirs))
            same = matches.category[ours, None] == matches.object_category[theirs]
            kind[ours], nearest = _judge(iou, same)
            target[ours] = np.where(nearest >= 0, theirs[nearest], -1)
    return kind, target


def _judge(iou: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinds, and columns of the intended objects, for the wrong detections of an image.

    Args:
        iou: (detections, objects); same: likewise, whether their classes are the same.
    """
    own, other = np.where(same, iou, 0), np.where(same, 0, iou)
    best_own, best_other = own.max(1), other.max(1)
    kind = np.select(
        [
            (best_own >= BACKGROUND_IOU) & (best_own < IOU),
            best_other >= IOU,
            best_own >= IOU,  # yet wrong: a better detection has the object
            best_other < BACKGROUND_IOU,
        ],
        [LOC, CLS, DUP, BKG],
        BOTH,
    )
    nearest = np.select([kind == LOC, kind == CLS], [own.argmax(1), other.argmax(1)], -1)
    return kind, nearest


def _mended(matches: Matches, chosen: np.ndarray, target: np.ndarray) -> float:
    """AP50, percent, once the `chosen` detections are corrected.

    Of the detections intended for an unmatched object, the one with the highest score becomes
    correct; the others are removed.
    """
    candidates = np.flatnonzero(chosen & (target >= 0))
    candidates = candidates[~matches.object_found[target[candidates]]]
    candidates = candidates[np.argsort(-matches.score[candidates], kind="stable")]
    objects, first = np.unique(target[candidates], return_index=True)
    corrected = candidates[first]
    counted, correct, category = ~chosen, matches.correct.copy(), matches.category.copy()
    counted[corrected] = correct[corrected] = True
    category[corrected] = matches.object_category[objects]
    return _ap50(matches, counted=counted, correct=correct, category=category)


def _objects(matches: Matches, chosen: np.ndarray | bool = True) -> np.ndarray:
    """The number of chosen objects per class, (classes,), without crowd regions."""
    mine = matches.object_category[chosen & ~matches.object_crowd]
    return np.bincount(mine, minlength=len(matches.classes))


def _ap50(matches: Matches, *, counted=True, correct=None, category=None, objects=None) -> float:
    """Mean AP over the classes with objects, in percent, as COCOeval computes it; NaN for none."""
    correct = matches.correct if correct is None else correct
    category = matches.category if category is None else category
    objects = _objects(matches) if objects is None else objects
    counted = counted & ~matches.ignored
    order = np.argsort(-matches.score, kind="stable")
    order = order[counted[order]]
    by_class = positions(category[order], len(objects))
    aps = [
        _average_precision(correct[order[mine]], int(number))
        for mine, number in zip(by_class, objects, strict=True)
        if number
    ]
    return 100 * float(np.mean(aps)) if aps else float("nan")


def _average_precision(correct: np.ndarray, objects: int) -> float:
    """AP over 101 recalls, of detections by descending score."""
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / objects, RECALLS)
    return float(np.append(envelope, 0.0)[reached].mean())
