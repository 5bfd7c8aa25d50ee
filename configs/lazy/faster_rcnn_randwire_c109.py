"""Faster R-CNN, RandWire-WS C=109, 1x: faster_rcnn_randwire_c109.yaml as a LazyConfig.

For detectron2's

    python tools/lazyconfig_train_net.py --config-file configs/lazy/faster_rcnn_randwire_c109.py \
        --num-gpus 8 train.init_checkpoint=output/pretrain/randwire_ws_c109_seed1/model_final.pth
"""

from .mask_rcnn_randwire_c109 import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

for _part in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_part)
dataloader.train.mapper.use_instance_mask = False
