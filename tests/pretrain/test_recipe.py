"""Section 4's recipe, line by line, as the running trainer has it: not as the YAML says it."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import REPO
from PIL import Image
from torch import nn

from pretrain import data, recipe
from pretrain.config import check, get_cfg
from pretrain.engine import Trainer
from randwire_det.config.files import merge_config
from randwire_det.run.average import WeightAverage
from randwire_det.run.parallel import World
from randwire_det.run.stopping import Stopping

CONFIGS = sorted(path.stem for path in (REPO / "configs" / "pretrain").glob("*.yaml"))
RANDWIRE = ["randwire_ws_c78", "randwire_ws_c109", "randwire_ws_c154"]
BASELINES = ["resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x4d"]
PAPERS = [*RANDWIRE, *BASELINES]
# Section 4: epochs, weight decay, dropout before fc, edge-drop. Baselines: [11]'s weight decay.
SAYS = {
    "randwire_ws_c78": (250, 5e-5, 0.0, 0.0),
    "randwire_ws_c109": (100, 1e-5, 0.2, 0.1),
    "randwire_ws_c154": (100, 1e-5, 0.2, 0.1),
} | dict.fromkeys(BASELINES, (100, 0.0001, 0.0, 0.0))
BATCHES = 2  # of an epoch of the folders below, with the paper's 256 images


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """As many small images as two batches of the paper take."""
    root = tmp_path_factory.mktemp("squares")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    for split, count in (("train", 256), ("val", 3)):
        for name in ("one", "two"):
            (root / split / name).mkdir(parents=True)
            image.save(root / split / name / "0.png")
            for number in range(1, count):
                (root / split / name / f"{number}.png").symlink_to("0.png")
    return root


def config(name, folders, tmp_path, *overrides):
    cfg = get_cfg()
    places = ["DATA.ROOT", folders, "DATA.NUM_WORKERS", 0, "DATA.INDEX_DIR", tmp_path / "index"]
    places += ["DEVICE", "cpu", "OUTPUT_DIR", tmp_path / "run"]
    merge_config(cfg, f"pretrain/{name}.yaml", [str(each) for each in [*places, *overrides]])
    check(cfg)
    return cfg


def trainer_of(cfg):
    return Trainer(cfg, recipe.network_of(cfg), *data.open_data(cfg), "cpu", World(), Stopping())


@pytest.mark.slow_suite
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_takes_two_steps(name, folders, tmp_path):
    small = ["INPUT.SIZE", 32, "INPUT.TEST_SIZE", 32, "SOLVER.BATCH_SIZE", 2]
    trainer = trainer_of(config(name, folders, tmp_path, *small))
    before = copy.deepcopy(trainer.learner.model.state_dict())
    trainer.learner.model.train()
    for batch in trainer.train_loader(trainer.shares(0)[:2]):
        trainer.step([batch])
    assert trainer.progress.iteration == 2
    trainer.collect()
    assert all(math.isfinite(loss) for loss in trainer.progress.losses)
    after = trainer.learner.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    matrices = [name for name, each in trainer.learner.model.named_parameters() if each.ndim > 1]
    # What lies between them in a ResNet learns later: its residual blocks start as the identity.
    assert {matrices[0], matrices[-1]} <= changed


@pytest.mark.parametrize("name", PAPERS)
def test_the_optimizer_and_its_schedule_are_the_papers(name, folders, tmp_path):
    epochs, weight_decay, *_ = SAYS[name]
    trainer = trainer_of(config(name, folders, tmp_path))
    assert isinstance(trainer.learner.optimizer, torch.optim.SGD)
    names = {parameter: name for name, parameter in trainer.learner.model.named_parameters()}
    modules = dict(trainer.learner.model.named_modules())
    seen = []
    for group in trainer.learner.optimizer.param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.9, True)
        for parameter in group["params"]:
            owner, _, kind = names[parameter].rpartition(".")
            free = isinstance(modules[owner], nn.BatchNorm2d) or kind == "edge_logits"
            assert group["weight_decay"] == (0.0 if free else weight_decay), names[parameter]
            seen.append(parameter)
    assert len(seen) == len(set(seen)) and set(seen) == set(names)

    def lr(iteration):
        trainer.learner.set_learning_rate(iteration)
        (value,) = {group["lr"] for group in trainer.learner.optimizer.param_groups}
        return value

    # 256 images: a warm-up from 0.1 to 0.1, then half a cosine to 0.
    warmup, total = 5 * BATCHES, epochs * BATCHES
    assert trainer.total == total
    assert {lr(iteration) for iteration in range(warmup + 1)} == {0.1}
    middle = (warmup + total) // 2
    assert lr(middle) == pytest.approx(0.05, abs=1e-3)
    rates = [lr(iteration) for iteration in range(warmup, total)]
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 1e-3


def test_the_learning_rate_is_linear_in_the_batch_with_warm_up(folders, tmp_path):
    """As in [11]: 512 images start at 0.1 and are at 0.2 after five epochs."""
    cfg = config("randwire_ws_c78", folders, tmp_path, "SOLVER.BATCH_SIZE", 512)
    trainer = trainer_of(cfg)

    def lr(epoch):
        trainer.learner.set_learning_rate(epoch * trainer.epoch_length)
        return trainer.learner.optimizer.param_groups[0]["lr"]

    assert [lr(epoch) for epoch in range(6)] == pytest.approx([0.1, 0.12, 0.14, 0.16, 0.18, 0.2])
    assert recipe.learning_rate(0, start=0.1, peak=0.025, warmup=5, total=9) == 0.025


@pytest.mark.parametrize("name", PAPERS)
def test_the_loss_is_smoothed_by_a_tenth(name, folders, tmp_path):
    trainer = trainer_of(config(name, folders, tmp_path, "INPUT.SIZE", 32))
    trainer.learner.model.eval()
    (batch,) = trainer.train_loader(trainer.shares(0)[0][None, :6])
    with torch.no_grad():
        loss = trainer.learner.loss(batch)
        log_probability = (
            trainer.learner.model(trainer.learner.normalise(batch.images)).double().log_softmax(1)
        )
    target = 0.9 * nn.functional.one_hot(batch.labels, 2) + 0.1 / 2
    assert loss.item() == pytest.approx(-(target * log_probability).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", PAPERS)
def test_dropout_and_edge_drop_are_the_papers(name, folders, tmp_path):
    _, _, dropout, edge_drop = SAYS[name]
    trainer = trainer_of(config(name, folders, tmp_path))
    rates = [
        module.p for module in trainer.learner.model.modules() if isinstance(module, nn.Dropout)
    ]
    assert rates == ([dropout] if name in RANDWIRE else [])
    trunk = getattr(trainer.learner.model, "trunk", None)
    dropped = Counter()
    for iteration in range(1000):
        trainer.learner.drop_edge(iteration)
        dropped[trunk is not None and trunk.dropped_edge is not None] += 1
    # Within five standard deviations of a thousand draws.
    expected = 1000 * edge_drop
    assert abs(dropped[True] - expected) <= 5 * math.sqrt(1000 * edge_drop * (1 - edge_drop))


@pytest.mark.parametrize("name", PAPERS)
def test_images_are_the_papers(name, folders, tmp_path):
    """Training on 224 pixels by random crops; a test on the middle 224 of 256, or any other."""
    cfg = config(name, folders, tmp_path)
    train, val = data.open_data(cfg)
    crops = [train[0, seed][0] for seed in range(3)]
    assert {crop.shape for crop in crops} == {(224, 224, 3)}
    assert not np.array_equal(crops[0], crops[1])
    whole = Image.open(val.path(0)).convert("RGB").resize((384, 256), Image.Resampling.BILINEAR)
    middle = np.asarray(whole)[16:240, 80:304].astype(int)
    assert np.abs(middle - val[0, 0][0]).max() <= 1
    larger = config(name, folders, tmp_path, "INPUT.TEST_SIZE", 320, "INPUT.TEST_RESIZE", 366)
    assert data.open_val(larger)[0, 0][0].shape == (320, 320, 3)
    normalised = data.Normalise(recipe.preprocessing_from_cfg(cfg))(torch.zeros(1, 2, 2, 3))
    imagenet = torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalised[0, :, 0, 0], -imagenet, rtol=1e-4, atol=0)


def test_label_smoothing_equals_the_formula():
    logits = torch.randn(5, 7, dtype=torch.float64)
    labels = torch.tensor([0, 6, 3, 3, 1])
    target = 0.9 * nn.functional.one_hot(labels, 7) + 0.1 / 7
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(recipe.classification_loss(logits, labels, 0.1), expected)
    mixed = 0.3 * nn.functional.one_hot(labels, 7) + 0.7 * nn.functional.one_hot(labels.flip(0), 7)
    target = 0.9 * mixed + 0.1 / 7
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    loss = recipe.classification_loss(logits, mixed.double(), 0.1)
    torch.testing.assert_close(loss, expected)


def test_the_modern_recipe_mixes_erases_and_averages(folders, tmp_path):
    trainer = trainer_of(config("randwire_ws_c109_modern", folders, tmp_path, "INPUT.SIZE", 32))
    images = torch.rand(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 0, 1])
    kinds = Counter()
    for _ in range(40):
        mixed, soft = trainer.learner.mix(images, labels)
        own = soft[torch.arange(4), labels]  # the other image of each pair has the other label
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        others = images.roll(1, 0)
        cut = ((mixed == images) | (mixed == others)).all()
        kinds["cut" if cut else "mixed"] += 1
        if cut:  # the label says how much of the image is left
            share = (mixed == images).all(1).float().mean((1, 2))
            torch.testing.assert_close(own, share, rtol=0, atol=1e-5)
        else:
            weight = own.view(4, 1, 1, 1)
            torch.testing.assert_close(mixed, weight * images + (1 - weight) * others)
    assert min(kinds["cut"], kinds["mixed"]) > 5
    assert trainer.learner.average is not None
    assert trainer.cfg.SOLVER.EPOCHS == 600


def test_weight_average_equals_the_plain_sum():
    """At a decay of d the average is d^n of the start and (1 - d) d^(n-k) of step k."""
    model = nn.BatchNorm1d(3)
    average = WeightAverage(model, 0.5)
    history = [model.weight.detach().clone()]
    for n in range(20, 24):  # late enough for the decay itself
        with torch.no_grad():
            model.weight.copy_(torch.randn(3))
        model.num_batches_tracked += 1
        history.append(model.weight.detach().clone())
        average.update(n)
    expected = history[0] * 0.5**4 + sum(
        0.5 * 0.5 ** (4 - k) * value for k, value in enumerate(history[1:], 1)
    )
    torch.testing.assert_close(average.model.weight, expected)
    assert average.model.num_batches_tracked == 4
    model = nn.BatchNorm1d(1)
    early = WeightAverage(model, 0.9999)
    nn.init.constant_(model.weight, 5.0)
    early.update(1)  # the random start counts for little: 2 / 11
    torch.testing.assert_close(early.model.weight.item(), 1 * 2 / 11 + 5 * 9 / 11)


def test_sync_bn_replaces_every_bn_and_keeps_its_names(folders, tmp_path):
    """What it computes takes several GPUs to see."""
    cfg = config("randwire_ws_c78", folders, tmp_path)
    plain = list(trainer_of(cfg).learner.model.state_dict())
    trainer = trainer_of(config("randwire_ws_c78", folders, tmp_path, "MODEL.SYNC_BN", True))
    assert list(trainer.learner.model.state_dict()) == plain
    kinds = {type(module) for module in trainer.learner.model.modules()}
    assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds
    free = trainer.learner.optimizer.param_groups[1]["params"]
    norms = [each for each in trainer.learner.model.modules() if isinstance(each, nn.SyncBatchNorm)]
    assert {id(norm.weight) for norm in norms} <= {id(parameter) for parameter in free}
