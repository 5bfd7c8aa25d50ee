"""Small COCO-format sets, results and evaluations."""

import json

import numpy as np
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets.coco import load_coco_json
from PIL import Image

from randwire_det.coco.lint import check_dataset

BOX, OFF, FAR = [10, 10, 20, 20], [22, 10, 20, 20], [60, 60, 20, 20]  # OFF: IoU 0.25 with BOX
CAT, DOG = 3, 7


def make_truth(*objects, images=1, names=("cat", "dog")):
    """A COCO JSON of objects (image, category, box) or (image, category, box, iscrowd)."""
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 100, "height": 80}
            for number in range(1, images + 1)
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip((CAT, DOG), names, strict=True)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(*crowd) if crowd else 0,
            }
            for number, (image, category, box, *crowd) in enumerate(objects, start=1)
        ],
    }


def make_results(*detections):
    """COCO results of detections (image, category, box, score)."""
    keys = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(keys, detection, strict=True)) for detection in detections]


def random_evaluation(seed):
    """Objects, some of them crowds, and detections around them, with ties among the scores."""
    rng = np.random.default_rng(seed)

    def box():
        return [*rng.uniform(0, 50, 2).tolist(), *rng.uniform(8, 40, 2).tolist()]

    objects = [
        (int(rng.integers(1, 9)), int(rng.choice([CAT, DOG])), box(), rng.random() < 0.15)
        for _ in range(40)
    ]
    found = [
        (image, category if rng.random() < 0.8 else DOG, (np.array(at) * scale).tolist(), score)
        for image, category, at, _ in objects
        for scale, score in zip(rng.uniform(0.7, 1.3, 4), rng.integers(1, 9, 4) / 10, strict=True)
    ]
    noise = [(int(rng.integers(1, 9)), CAT, box(), float(rng.random())) for _ in range(20)]
    return make_truth(*objects, images=8), make_results(*found, *noise)


def save(folder, truth, results):
    """The three inputs of a report in a folder, with a picture for each image."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row in truth["images"]:
        Image.new("RGB", (100, 80), (90, 120, 60)).save(folder / "images" / row["file_name"])
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "truth.json", folder / "images", folder / "results.json"


WIDTH, HEIGHT = 48, 32


class Coco:
    """Three noisy images with two boxes each, of which the second is a crowd; write() them."""

    def __init__(self, root):
        self.root, self.json, self.images = root, root / "set.json", root / "images"
        self.images.mkdir(parents=True)
        rng, images, annotations = np.random.default_rng(0), [], []
        for n in (1, 2, 3):
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{n}.jpg")
            image = {"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT}
            images.append(image)
            for crowd in (0, 1):
                annotations.append(
                    {
                        "id": 2 * n + crowd,
                        "image_id": n,
                        "category_id": n,
                        "bbox": [2, 3, 20.5, 10],
                        "area": 205.0,
                        "iscrowd": crowd,
                        "segmentation": [[2, 3, 22.5, 3, 22.5, 13, 2, 13]],
                    }
                )
        categories = [{"id": n, "name": f"class {n}"} for n in (1, 2, 3)]
        self.content = {"images": images, "annotations": annotations, "categories": categories}

    def write(self):
        self.json.write_text(json.dumps(self.content))
        return self

    def check(self, **options):
        options = {"training": True, "images": "decode"} | options
        return check_dataset(str(self.json), str(self.images), **options)

    def read_by_detectron2(self, training=True):
        """All that a run reads before the model sees it."""
        name = f"set in {self.root}"
        dicts = load_coco_json(str(self.json), str(self.images), name)
        MetadataCatalog.remove(name)
        mapper = DatasetMapper(
            training, augmentations=[T.Resize((64, 96))], image_format="RGB", use_instance_mask=True
        )
        return [mapper(each) for each in dicts]


def kinds(findings) -> dict[str, int]:
    return {finding.kind: finding.count for finding in findings}


def entry(part, index=0, /, **changes):
    """A fault: keys of one entry changed."""

    def break_it(coco):
        coco.content[part][index].update(changes)

    return break_it
