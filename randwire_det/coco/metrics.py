"""The names of COCO's AP in a table, in the order that pycocotools gives them."""

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
