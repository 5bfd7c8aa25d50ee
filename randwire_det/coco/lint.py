"""A COCO-format data set is looked through before a long run meets its faults one by one.

Fatal is what would stop detectron2, at the start or hours later, or let it learn nonsense without
a word; a warning is what it copes with, at a price that its user should know.
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
from .content import check_categories, check_files, check_images
from .datasets import check_datasets, is_coco
from .resizing import MAX_SIZE, max_size

IMAGE_CHECKS = ("none", "headers", "decode")
EXAMPLES = 3

# kind -> how to fix it
FATAL = {
    **CURES,
    "image-folder-missing": "give the folder that the file names in the JSON start at",
    "no-images": "the set is empty",
    "no-annotations": "nothing to learn from: only annotations of images in the JSON that are no"
    " crowds count",
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
    "annotation-id-twice": "number the annotations anew",
    "category-id-type": 'write category_id as "categories" writes the id: a number is not a text',
    "image-id-type": 'write image_id as "images" writes the id: a number is not a text',
    "image-without-size": 'give every image its "width" and "height" in pixels',
    "image-absent": "copy the files, or remove the images and their annotations from the JSON",
    "image-spelled-otherwise": "write file_name as the file is named: case, /, accents and all; the"
    " image folder is where it starts",
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
    "boxes-relative": "boxes are in pixels, not shares of the image",
    "ignore-flag": 'detectron2 stops on "ignore": write "iscrowd": 1 or remove the annotation',
    "mask-missing": "masks are learned (MODEL.MASK_ON), so that every annotation takes a"
    " segmentation: add them, or set MODEL.MASK_ON False",
    "segmentation-malformed": "a segmentation is a list of polygons [x, y, x, y, ...] or an RLE"
    ' with "size" and "counts"; remove it where only boxes are learned',
    "flag-malformed": 'write "iscrowd" as 0 or 1',
}
WARNINGS = {
    "nothing-to-evaluate": "there will be predictions, but no AP",
    "spare-outputs": "outputs past the last category are never learned; set"
    " MODEL.ROI_HEADS.NUM_CLASSES (RetinaNet: MODEL.RETINANET.NUM_CLASSES) unless meant so",
    "image-unknown": "these annotations are left out: is an image missing?",
    "flag-by-value": "read by its value here; detectron2's own trainer takes all but 0 for a crowd,"
    " and leaves the box out",
    "area-impossible": "it tells small, medium and large objects apart (APs, APm, APl): width x"
    " height of the box is taken for it, wherever it is not above 0 or exceeds the box by more than"
    " a pixel all around",
    "annotation-id-unsafe": "no matter here, where ids are renumbered for the evaluation;"
    " pycocotools alone never matches id 0, and stops on text",
    "image-file-twice": "each entry takes what the other annotates for background: merge them",
    "image-rotated": "detectron2 turns the image as EXIF says: the boxes must be those of the"
    " turned image",
    "category-name-twice": "they are learned as different classes",
    "box-empty": "zero width or height: detectron2 leaves the box out",
    "box-outside": "nothing of the box is in the image: detectron2 leaves it out",
    "box-over-edge": "detectron2 cuts the box at the edge; many of these mean [x0, y0, x1, y1]"
    " where [x, y, width, height] is expected",
    "polygon-dropped": "detectron2 leaves out polygons of an odd number or fewer than 6 numbers",
    "instance-dropped": "no polygon has an even number of 6 or more numbers: detectron2 leaves out"
    " the annotation, box and all; remove the segmentation to keep the box",
    "mask-broken": "no matter for boxes, but masks (MODEL.MASK_ON) would stop on it",
    "images-shared": "images of a training set in a test set: its AP says less than it seems to",
}


@dataclass
class Finding:
    """All faults of one kind: the first three, and how to fix them."""

    kind: str
    count: int
    examples: list[str]
    advice: str


@dataclass
class Report:
    """What `check_dataset` found.

    Attributes:
        fatal, warnings: a `Finding` a kind, in the order they were met.
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
        """One more fault of a kind."""
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
        """Several lines for a reader."""
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
        """Raise a UserError of one line with every fatal kind; return where there is none."""
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
    """Look through a COCO-format data set as detectron2 would read it.

    Args:
        training: for training, or else for evaluation, for which annotations may be missing.
        num_classes: how many classes the model tells apart; None leaves that out.
        masks: whether the model learns masks, too.
        images: "none" (that the files are there), "headers" (their sizes, too) or "decode" (every
            pixel: finds truncated files, takes as long as reading the set once).
        longest: side of an image when the model sees it, in pixels; 0 where it is not resized.
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
    counts = check_annotations(
        annotations,
        known,
        check_categories(categories, num_classes, report.add, training=training),
        report.add,
        training=training,
        masks=masks and training,
        unique="minival" not in report.json_file,  # whose faults detectron2 knows and lets pass
    )
    usable = counts.pop("usable")
    sizes = {"images": len(entries), "annotations": len(annotations), "categories": len(categories)}
    report.counts = sizes | counts
    if not entries:
        report.add("no-images", '"images" is empty')
    if not usable and not training:
        report.add("nothing-to-evaluate", f"{len(annotations)} annotations, none but crowds")
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
    """A report for each COCO-format set of DATASETS.TRAIN and DATASETS.TEST, in this order.

    Raises:
        UserError: a set is not registered, or its files are not there.
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
    """Add to `test` a warning of the images that are in `train`, too.

    Shared is a file of the same name and the same path or number of bytes: frames of different
    videos often share their names.
    """
    for name, path in test.files.items():
        if name in train.files and _same_file(train.files[name], path):
            test.add("images-shared", f"{short(name)} is in {train.json_file}, too")


def _same_file(one: str, other: str) -> bool:
    try:
        return one == other or os.path.getsize(one) == os.path.getsize(other)
    except OSError:  # missing; already reported
        return False
