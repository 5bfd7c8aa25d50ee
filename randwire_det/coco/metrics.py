"""The names of COCO's AP metrics, in pycocotools' order."""

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
