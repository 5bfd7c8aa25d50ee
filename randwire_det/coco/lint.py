"""Lints a COCO-format data set before a long run.

Fatal faults would stop detectron2, possibly after hours, or silently train it on wrong labels;
warnings are faults that detectron2 tolerates at a price that the user should know.
"""

import os
import shlex
from dataclasses import asdict, dataclass, field

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import UsageError, UserError
from .annotations import check_annotations
from .classes import number_of_outputs
from .coco_json import CURES, LISTS, CocoError, read_coco, short
from .content import (
    check_categories,
    check_every_class_is_seen,
    check_files,
    check_images,
)
from .datasets import check_datasets, is_coco
from .resizing import MAX_SIZE, max_size

IMAGE_CHECKS = ("none", "headers", "decode")
EXAMPLES = 3

# kind -> how to fix it
FATAL = {
    **CURES,
    "image-folder-missing": "give the folder that the file names in the JSON are relative to",
    "no-images": "the set is empty",
    "no-annotations": "nothing to learn from: only annotations that are not crowds, of images in"
    " the JSON, count",
    "no-categories": "list every class with its id and name",
    "too-many-classes": "set MODEL.ROI_HEADS.NUM_CLASSES (RetinaNet: MODEL.RETINANET.NUM_CLASSES)"
    " to the number of categories",
    "too-many-outputs": "the evaluation stops once an output past the last category detects: set"
    " MODEL.ROI_HEADS.NUM_CLASSES (RetinaNet: MODEL.RETINANET.NUM_CLASSES) to the number of"
    " categories",
    "image-malformed": 'an image is an object with "id" and "file_name"; ids are all numbers or all'
    " text",
    "annotation-malformed": 'an annotation is an object with "id", "image_id" and "category_id"',
    "image-id-twice": "give every image an id of its own: one would get the annotations of both",
    "annotation-id-twice": "renumber the annotations",
    "category-id-type": 'write category_id as "categories" writes the id: a number is not a text',
    "image-id-type": 'write image_id as "images" writes the id: a number is not a text',
    "image-without-size": 'give every image its "width" and "height" in pixels',
    "image-absent": "copy the files, or remove the images and their annotations from the JSON",
    "image-spelled-otherwise": "write file_name exactly as the file is named (case, /, accents),"
    " relative to the image folder",
    "image-too-thin": "a side would be resized to 0 pixels: cut the image, remove it, or raise"
    " INPUT.MAX_SIZE_TRAIN or INPUT.MAX_SIZE_TEST",
    "image-unreadable": "copy the files again, or convert them as the reason says, or remove the"
    " images from the JSON",
    "image-size": "write the file's size, EXIF rotation applied, into the JSON and see that the"
    " boxes are those of that image",
    "category-unknown": 'add the category to "categories", or remove the annotations',
    "box-missing": 'every annotation takes "bbox": [x, y, width, height]',
    "box-malformed": "a box is [x, y, width, height]: four finite numbers, in pixels",
    "box-negative": "detectron2 would mirror the box: write its upper left corner, width, height",
    "boxes-relative": "boxes must be in pixels, not fractions of the image",
    "ignore-flag": 'detectron2 stops on "ignore": write "iscrowd": 1 or remove the annotation',
    "mask-missing": "with MODEL.MASK_ON every annotation needs a segmentation: add them, or set"
    " MODEL.MASK_ON False",
    "segmentation-malformed": "a segmentation is a list of polygons [x, y, x, y, ...] or an RLE"
    ' with "size" and "counts"; remove it if only boxes are learned',
    "flag-malformed": 'write "iscrowd" as 0 or 1',
}
WARNINGS = {
    "nothing-to-evaluate": "there will be predictions, but no AP",
    "spare-outputs": "outputs past the last category are never learned; set"
    " MODEL.ROI_HEADS.NUM_CLASSES (RetinaNet: MODEL.RETINANET.NUM_CLASSES) unless intended",
    "image-unknown": "these annotations are ignored: is an image missing?",
    "flag-by-value": "read by its value here; detectron2's own trainer treats all but 0 as a crowd"
    " and ignores the box",
    "area-impossible": "the area decides between small, medium and large objects (APs, APm, APl);"
    " where it is not above 0 or exceeds the box by more than a pixel on each side, the area of the"
    " box is used",
    "annotation-id-unsafe": "harmless here, as ids are renumbered for the evaluation; pycocotools"
    " itself never matches id 0 and stops on text",
    "image-file-twice": "each entry treats the other's objects as background: merge them",
    "image-rotated": "detectron2 rotates the image as EXIF says: the boxes must be those of the"
    " rotated image",
    "category-without-objects": "the class is never seen, so its output learns only not to fire",
    "category-name-twice": "they are learned as different classes",
    "box-empty": "zero width or height: detectron2 ignores the box",
    "box-outside": "the box is outside the image: detectron2 ignores it",
    "box-over-edge": "detectron2 clips the box at the edge; many of these suggest [x0, y0, x1, y1]"
    " instead of [x, y, width, height]",
    "polygon-dropped": "detectron2 ignores polygons of an odd number or fewer than 6 numbers",
    "instance-dropped": "no polygon has an even number of 6 or more numbers: detectron2 ignores the"
    " annotation including its box; remove the segmentation to keep the box",
    "mask-broken": "harmless for boxes, but training masks (MODEL.MASK_ON) would stop on it",
    "images-shared": "images of a training set in a test set: its AP is too optimistic",
}


@dataclass
class Finding:
    """All faults of one kind: their number, the first three, and how to fix them."""

    kind: str
    count: int
    examples: list[str]
    advice: str


@dataclass
class Report:
    """What `check_dataset` found.

    Attributes:
        fatal, warnings: a `Finding` per kind, in order of occurrence.
        counts: images, annotations, crowds, ignored, categories, images_without_annotations.
        files: the path of every image by its name in the JSON.
    """

    json_file: str
    image_root: str
    training: bool
    images: str
    num_classes: int | None
    masks: bool
    longest: int = MAX_SIZE
    fatal: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, kind: str, example: str) -> None:
        """Add a fault."""
        findings, advice = (self.fatal, FATAL) if kind in FATAL else (self.warnings, WARNINGS)
        finding = next((each for each in findings if each.kind == kind), None)
        if finding is None:
            finding = Finding(kind, 0, [], advice[kind])
            findings.append(finding)
        finding.count += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(example)

    @property
    def command(self) -> str:
        """The command line that prints this report."""
        words = ["--json", self.json_file, "--images", self.image_root]
        words += [] if self.training else ["--for", "test"]
        words += [] if self.num_classes is None else ["--num-classes", str(self.num_classes)]
        words += ["--masks"] if self.masks else []
        words += [] if self.longest == MAX_SIZE else ["--max-size", str(self.longest)]
        words += ["--decode"] if self.images == "decode" else []
        return f"python tools/check_dataset.py {shlex.join(words)}"

    def to_text(self) -> str:
        """The report as lines of text."""
        use = "training" if self.training else "test"
        lines = [f"{use} set {self.json_file}, images in {self.image_root} (looked at:"]
        lines[0] += f" {'names' if self.images == 'none' else self.images})"
        if self.counts:
            pairs = (f"{name.replace('_', ' ')} {n}" for name, n in self.counts.items())
            lines.append("  " + ", ".join(pairs))
        for severity, findings in (("FATAL", self.fatal), ("warning", self.warnings)):
            for finding in findings:
                lines.append(f"  {severity} {finding.kind}: {finding.count}")
                lines += [f"    {example}" for example in finding.examples]
                if finding.count > len(finding.examples):
                    lines.append("    ...")
                lines.append(f"    -> {finding.advice}")
        if not self.fatal and not self.warnings:
            lines.append("  no faults found")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """The same as plain data for JSON."""
        content = asdict(self)
        del content["files"]
        return content

    def raise_if_fatal(self) -> None:
        """Raise a one-line UserError that lists every fatal kind, if there is any."""
        if self.fatal:
            kinds = (f"{each.kind} {each.count} (first: {each.examples[0]})" for each in self.fatal)
            raise UserError(f"{self.json_file}: {'; '.join(kinds)}; for more: {self.command}")


def check_dataset(
    json_file: str,
    image_root: str,
    *,
    training: bool,
    num_classes: int | None = None,
    masks: bool = False,
    images: str = "headers",
    longest: int = MAX_SIZE,
) -> Report:
    """Check a COCO-format data set as detectron2 would read it.

    Args:
        training: whether the data set is for training; for evaluation annotations may be missing.
        num_classes: number of classes of the model; None skips that check.
        masks: whether the model learns masks.
        images: "none" (files exist), "headers" (also their sizes) or "decode" (every pixel: finds
            truncated files, takes as long as reading the whole set once).
        longest: longest side of a resized image, in pixels; 0 if images are not resized.
    """
    if images not in IMAGE_CHECKS:
        raise UsageError(f"images {images!r}: expected one of {', '.join(IMAGE_CHECKS)}")
    report = Report(str(json_file), str(image_root), training, images, num_classes, masks, longest)
    there = PathManager.isdir(report.image_root or ".")
    if not there:
        report.add("image-folder-missing", report.image_root)
    try:
        # A test set without annotations still gets predictions.
        content = read_coco(report.json_file, may_lack=() if training else ("annotations",))
    except CocoError as error:
        report.add(error.kind, error.reason)
        return report
    entries, categories, annotations = (content[key] for key in LISTS)
    known = check_images(entries, longest, report.add)
    classes = check_categories(categories, num_classes, report.add, training=training)
    if training and annotations:
        check_every_class_is_seen(categories, annotations, report.add)
    counts = check_annotations(
        annotations,
        known,
        classes,
        report.add,
        training=training,
        masks=masks and training,
        unique="minival" not in report.json_file,  # detectron2 tolerates its duplicate ids
    )
    usable = counts.pop("usable")
    sizes = {"images": len(entries), "annotations": len(annotations), "categories": len(categories)}
    report.counts = sizes | counts
    if not entries:
        report.add("no-images", '"images" is empty')
    if not usable and not training:
        report.add("nothing-to-evaluate", f"{len(annotations)} annotations, all crowds")
    elif not usable and not report.fatal:  # else that may be why
        report.add("no-annotations", f"{len(annotations)} annotations, none usable")
    images_known = list(known.values())
    paths = [os.path.join(report.image_root, image["file_name"]) for image in images_known]
    report.files = {image["file_name"]: p for image, p in zip(images_known, paths, strict=True)}
    if there:
        check_files(images_known, report.image_root, paths, images, report.add)
    return report


def check_configured_datasets(
    cfg: CfgNode, *, images: str = "headers", eval_only: bool = False
) -> list[Report]:
    """A report for each COCO-format data set of DATASETS.TRAIN, then of DATASETS.TEST.

    Raises:
        UserError: a data set is not registered, or its files are missing.
    """
    reports = []
    for key in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        check_datasets(list(cfg.DATASETS[key]))
        for name in cfg.DATASETS[key]:
            metadata = MetadataCatalog.get(name)
            files = metadata.get("json_file"), metadata.get("image_root")
            if None in files or not is_coco(name):
                continue
            reports.append(
                check_dataset(
                    *files,
                    training=key == "TRAIN",
                    num_classes=number_of_outputs(cfg)[1],
                    masks=cfg.MODEL.MASK_ON,
                    images=images,
                    longest=max_size(cfg, training=key == "TRAIN"),
                )
            )
    for test in (report for report in reports if not report.training):
        for train in (report for report in reports if report.training):
            warn_of_shared_images(train, test)
    return reports


def warn_of_shared_images(train: Report, test: Report) -> None:
    """Add a warning to `test` about images that are also in `train`.

    Shared images have the same file name and the same path or size in bytes: the names alone are
    often equal, for example in frames of different videos.
    """
    for name, path in test.files.items():
        if name in train.files and _same_file(train.files[name], path):
            test.add("images-shared", f"{short(name)} is in {train.json_file}, too")


def _same_file(one: str, other: str) -> bool:
    try:
        return one == other or os.path.getsize(one) == os.path.getsize(other)
    except OSError:  # missing; already reported
        return False
