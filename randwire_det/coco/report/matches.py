"""All detections and objects of an evaluation as flat arrays, with COCOeval's matches at IoU 0.5.

The matching is pycocotools' own, so that an analysis of it starts from the reported AP50.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pycocotools.cocoeval import COCOeval

IOU = 0.5


@dataclass(frozen=True)
class Matches:
    """D detections, by class, image and descending score, and G objects including crowd regions.

    Boxes are [x, y, width, height] in pixels; `image` and `category` index the two lists.
    """

    images: list[dict]
    classes: list[str]
    box: np.ndarray  # (D, 4)
    image: np.ndarray  # (D,)
    category: np.ndarray  # (D,)
    score: np.ndarray  # (D,)
    correct: np.ndarray  # (D,) matched to an object (or to a crowd region, see `ignored`)
    ignored: np.ndarray  # (D,) counts neither for nor against: inside a crowd region
    object_box: np.ndarray  # (G, 4)
    object_image: np.ndarray  # (G,)
    object_category: np.ndarray  # (G,)
    object_crowd: np.ndarray  # (G,)
    object_score: np.ndarray  # (G,) of the matched detection; -inf if there is none

    @property
    def object_found(self) -> np.ndarray:
        return self.object_score > -np.inf


def match(coco_eval: COCOeval) -> Matches:
    """Flatten what `COCOeval.evaluate` found at IoU 0.5, for objects of all sizes."""
    params = coco_eval.params
    threshold = int(np.abs(params.iouThrs - IOU).argmin())
    area = params.areaRngLbl.index("all")
    truth, found = coco_eval.cocoGt.anns, coco_eval.cocoDt.anns
    ours = {name: [] for name in ("box", "image", "category", "score", "correct", "ignored")}
    theirs = {name: [] for name in ("box", "image", "category", "crowd", "score")}
    for category in range(len(params.catIds)):
        for image in range(len(params.imgIds)):
            block = category * len(params.areaRng) + area
            cell = coco_eval.evalImgs[block * len(params.imgIds) + image]
            if cell is None:  # neither an object nor a detection
                continue
            ours["box"] += [found[number]["bbox"] for number in cell["dtIds"]]
            ours["image"] += [image] * len(cell["dtIds"])
            ours["category"] += [category] * len(cell["dtIds"])
            ours["score"] += cell["dtScores"]
            ours["correct"] += (cell["dtMatches"][threshold] != 0).tolist()
            ours["ignored"] += cell["dtIgnore"][threshold].tolist()
            theirs["box"] += [truth[number]["bbox"] for number in cell["gtIds"]]
            theirs["image"] += [image] * len(cell["gtIds"])
            theirs["category"] += [category] * len(cell["gtIds"])
            theirs["crowd"] += cell["gtIgnore"].tolist()
            theirs["score"] += [
                found[number]["score"] if number else -np.inf
                for number in cell["gtMatches"][threshold]
            ]
    return Matches(
        images=coco_eval.cocoGt.loadImgs(params.imgIds),
        classes=[str(row["name"]) for row in coco_eval.cocoGt.loadCats(params.catIds)],
        box=np.array(ours["box"], float).reshape(-1, 4),
        image=np.array(ours["image"], int),
        category=np.array(ours["category"], int),
        score=np.array(ours["score"], float),
        correct=np.array(ours["correct"], bool),
        ignored=np.array(ours["ignored"], bool),
        object_box=np.array(theirs["box"], float).reshape(-1, 4),
        object_image=np.array(theirs["image"], int),
        object_category=np.array(theirs["category"], int),
        object_crowd=np.array(theirs["crowd"], bool),
        object_score=np.array(theirs["score"], float),
    )


def positions(index: np.ndarray, count: int) -> list[np.ndarray]:
    """The positions of 0, 1, ..., `count` - 1 in `index`, each in ascending order."""
    order = np.argsort(index, kind="stable")
    edges = np.searchsorted(index[order], np.arange(count + 1))
    return [order[low:high] for low, high in pairwise(edges)]
