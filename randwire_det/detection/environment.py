"""Brings RandWire into detectron2's own scripts and other projects, without a line changed in them:

    DETECTRON2_ENV_MODULE=randwire_det.detection.environment python tools/train_net.py ...

detectron2 imports the module of that name as soon as it is imported itself.
"""


def setup_environment() -> None:
    """Register the builders, and add the keys of this package to every config."""
    # Not at the top: whichever of the two packages comes first is still being imported.
    import detectron2.config.defaults

    import randwire_det.detection.presets  # noqa: F401
    from randwire_det.detection.config import add_randwire_config

    add_randwire_config(detectron2.config.defaults._C)
