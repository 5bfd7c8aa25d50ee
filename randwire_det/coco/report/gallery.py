"""Chooses the images of the gallery: the worst and the best by F1.

F1 is at IoU 0.5 and score >= 0.5. AP is a ranking over all images and says little about one image.
"""

from dataclasses import dataclass

import numpy as np

from .matches import Matches, positions

SCORE = 0.5  # detections below it are neither counted here nor drawn


@dataclass(frozen=True)
class Picture:
    """An image of the gallery, with its detections and objects as positions in the `Matches`."""

    image: dict  # its row in the COCO JSON
    found: int
    wrong: int
    missed: int
    detections: np.ndarray  # score >= SCORE
    objects: np.ndarray  # crowd regions included

    @property
    def f1(self) -> float:
        return 2 * self.found / (2 * self.found + self.wrong + self.missed)

    @property
    def name(self) -> str:
        return str(self.image.get("file_name", f"image {self.image['id']}"))


def choose(matches: Matches, count: int) -> tuple[list[Picture], list[Picture]]:
    """The `count` worst and the `count` best images, no image in both.

    At equal F1 more errors are worse and more objects better. Images with neither objects nor
    detections have no F1 and are skipped.
    """
    shown = np.flatnonzero(matches.score >= SCORE)
    objects = positions(matches.object_image, len(matches.images))
    detections = [shown[at] for at in positions(matches.image[shown], len(matches.images))]
    pictures = []
    for image, ours, theirs in zip(matches.images, detections, objects, strict=True):
        # Detections are matched by falling score, so those below SCORE change nothing above it.
        counted = ours[~matches.ignored[ours]]
        found = int(matches.correct[counted].sum())
        missed = int((~matches.object_crowd[theirs]).sum()) - found
        if len(counted) or missed:
            wrong = len(counted) - found
            pictures.append(Picture(image, found, wrong, missed, ours, theirs))
    pictures.sort(key=lambda one: (one.f1, -one.wrong - one.missed, one.found))
    worst = pictures[: min(count, (len(pictures) + 1) // 2)]
    return worst, pictures[len(worst) :][::-1][:count]
