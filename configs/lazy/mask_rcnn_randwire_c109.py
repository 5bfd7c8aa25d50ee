"""Mask R-CNN, RandWire-WS C=109, 1x: mask_rcnn_randwire_c109.yaml as a LazyConfig.

For detectron2's

    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_randwire_c109.py \
        --num-gpus 8 train.init_checkpoint=output/pretrain/randwire_ws_c109_seed1/model_final.pth
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from randwire_det import generate
from randwire_det.detection import RandWireBackbone

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

model.backbone.bottom_up = L(RandWireBackbone)(
    spec=L(generate)(generator="ws", regime="regular", channels=109, nodes=32, k=4, p=0.75, seed=1),
    out_features=["conv2", "conv3", "conv4", "conv5"],
    relu_outputs=True,
    freeze_at=2,
    memory="lean",
)
# As in the pretraining here.
model.input_format = dataloader.train.mapper.image_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
# Decay would pull the aggregation weights to one half.
optimizer.params.overrides = {"edge_logits": {"weight_decay": 0.0}}
