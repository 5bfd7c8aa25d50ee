"""Pictures of every kind, and a tiny detector of them, for the tests of predicting."""

import json

import numpy as np
from detection_helpers import tiny_config, tiny_detector
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from randwire_det.detection.picture_files import find_pictures
from randwire_det.detection.predict import Classes, Predictor, predict
from randwire_det.detection.stored import load_detector
from randwire_det.detection.trainer import build_checkpointer

DATASET, NAMES, IDS = "pictures_of_test_predict", ["cat", "dog", "cow"], [4, 7, 9]
SMALL = {
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "DATASETS.TRAIN": f"('{DATASET}',)",
    "DATASETS.TEST": f"('{DATASET}',)",
    "DATALOADER.NUM_WORKERS": 0,
}
MASKS = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}
SIZES = {
    "colour.png": (70, 50),
    "grey.png": (50, 70),
    "clear.png": (60, 60),
    "turned.jpg": (40, 90),
}


def make_pictures(folder):
    """Pictures of every kind in a folder, and a COCO data set of them, registered as DATASET."""
    rng = np.random.default_rng(0)

    def noise(name, mode="RGB"):
        width, height = SIZES[name]
        blocks = rng.integers(0, 256, (height // 10, width // 10, len(mode)), dtype=np.uint8)
        return Image.fromarray(blocks.squeeze()).resize((width, height), Image.NEAREST)

    noise("colour.png").save(folder / "colour.png")
    noise("grey.png", "L").save(folder / "grey.png")
    noise("clear.png", "RGBA").save(folder / "clear.png")
    exif = Image.Exif()
    exif[274] = 6  # a camera held upright
    noise("turned.jpg").transpose(Image.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    images = [
        {"id": position, "file_name": name, "width": SIZES[name][0], "height": SIZES[name][1]}
        for position, name in enumerate(sorted(SIZES), start=1)
    ]
    categories = [{"id": id, "name": name} for id, name in zip(IDS, NAMES, strict=True)]
    content = {"info": {}, "images": images, "categories": categories, "annotations": []}
    truth = folder.parent / f"{folder.name}.json"
    truth.write_text(json.dumps(content))
    register_coco_instances(DATASET, {"thing_classes": NAMES}, str(truth), str(folder))
    DatasetCatalog.get(DATASET)  # on which detectron2 learns the ids
    return folder


def forget_pictures():
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.pop(DATASET)


def store(folder, average=None, **changes):
    """A tiny detector and its checkpoint, through the project's own writer."""
    cfg = tiny_config(**SMALL | changes, OUTPUT_DIR=folder)
    model = tiny_detector(**SMALL | changes).eval()
    build_checkpointer(cfg, model, average=average).save("model_final")
    return model, cfg, folder / "model_final.pth"


def predict_with(checkpoint, inputs, output, **options):
    model, cfg, names = load_detector(checkpoint, "cpu")
    counts = predict(
        Predictor(model, cfg), Classes(cfg, names), find_pictures(inputs), output, **options
    )
    return counts, json.loads((output / "predictions.json").read_text())
