"""Static int8 quantization of an ONNX file, by onnxruntime."""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..run.files import replace_file

OPERATIONS = ["Conv"]  # fc and the heads of a detector keep float32


def quantize(source: Path, path: Path, images: Iterable[np.ndarray]) -> None:
    """Write an int8 copy: weights and inputs of the convolutions in 8 bits, per channel.

    Args:
        source: the ONNX file in float32; its metadata are kept.
        path: where to write.
        images: inputs of the network to calibrate the ranges of its maps with.

    Raises:
        UserError: the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._left = iter(images)

        def get_next(self) -> dict | None:
            image = next(self._left, None)
            return None if image is None else {"image": image}

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "int8.onnx")
        logging.disable(logging.WARNING)  # advice on BN, which is folded already
        try:
            quantize_static(
                source,
                written,
                Reader(),
                op_types_to_quantize=OPERATIONS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(written)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source).metadata_props)
    replace_file(path, lambda file: file.write(model.SerializeToString()))
