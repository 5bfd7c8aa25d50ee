"""A report on a COCO evaluation: where AP is lost, by kind of error, by class and by image."""

from .write import write_report

__all__ = ["write_report"]
