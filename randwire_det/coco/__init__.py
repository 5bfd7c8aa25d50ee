"""COCO-format data and results: reading, lint, evaluation, report. Knows nothing of RandWire."""
