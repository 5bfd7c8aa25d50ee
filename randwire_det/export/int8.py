"""Static int8 quantization of an ONNX file, by onnxruntime."""

import io
import logging
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from ..run.files import replace_file

OPERATIONS = ["Conv"]  # fc and the heads of a detector keep float32


def quantize(source: Path, path: Path, images: Iterable[np.ndarray], count: int) -> None:
    """Write an int8 copy: weights of the convolutions in 8 bits per channel, their inputs per map.

    The range of a map is where nearly all of its values are: the few largest, of single channels,
    would take the steps of all others.

    Args:
        source: the ONNX file in float32; its metadata are kept.
        path: where to write.
        images: inputs of the network to calibrate the ranges of its maps with.
        count: of images.

    Raises:
        UserError: the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        """One image for each range that is asked for, as all maps of a range are held at once."""

        def __init__(self):
            self._images, self._left = iter(images), 0

        def __len__(self) -> int:
            return count

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = end_index - start_index

        def get_next(self) -> dict | None:
            self._left -= 1
            return None if self._left < 0 else {"image": next(self._images)}

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "int8.onnx")
        logging.disable(logging.WARNING)  # advice on BN, which is folded already
        try:
            with redirect_stdout(io.StringIO()):  # of the percentiles
                quantize_static(
                    source,
                    written,
                    Reader(),
                    op_types_to_quantize=OPERATIONS,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.Percentile,
                    extra_options={"CalibStridedMinMax": 1},  # images in a range, for any method
                )
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(written)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source).metadata_props)
    replace_file(path, lambda file: file.write(model.SerializeToString()))
