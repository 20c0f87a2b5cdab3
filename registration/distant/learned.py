"""The learned descriptor of keypoints: patches of registration.distant.patches through a small network in onnxruntime.

It takes the place of registration.distant.keypoints.describe: the same keypoints, descriptors of unit length that are
compared in the same way. The network ships with Tercel (registration/models, with a card that says what it was trained
on); registration.train makes another.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.distant.keypoints import Prepared
from registration.distant.patches import AZIMUTHS, BITS, RINGS_M, grid_of, patches, pyramid
from tercel.core.errors import UserError

Array = NDArray[Any]

SHIPPED_MODEL = Path(__file__).parent.parent / "models" / "distant-descriptor.onnx"
MAX_MODEL_BYTES = 64 << 20
_INPUTS = {"patches": ["K", AZIMUTHS, len(RINGS_M) * BITS], "height_m": ["K"]}


def describe_learned(prepared: Prepared, model: Path = SHIPPED_MODEL) -> Array:
    """Descriptors (K, D) float32 of unit length, one for each keypoint; compare them by Euclidean distance.

    Raises UserError if the model is missing, or is no descriptor of such patches.
    """
    if not len(prepared.keypoints_m):
        return np.zeros((0, _session(model).get_outputs()[0].shape[1]), np.float32)
    seen = patches(pyramid(grid_of(prepared.scene)), prepared.keypoints_m)
    height_m = np.asarray(prepared.height_m, np.float32)
    (descriptors,) = _session(model).run(None, {"patches": seen, "height_m": height_m})
    return np.asarray(descriptors, np.float32)


@lru_cache(maxsize=2)
def _session(model: Path) -> Any:
    """An onnxruntime session of one thread, whose answers are the same bits every time."""
    import onnxruntime as ort  # here and not above: it takes 0.1 s, which a host without networks saves

    if not model.is_file():
        raise UserError(f"{model}: no such model; install Tercel anew, or make one: python -m registration.train")
    if model.stat().st_size > MAX_MODEL_BYTES:
        raise UserError(f"{model}: too large for a descriptor's model")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's errors share no base class of their own
        raise UserError(f"{model}: not a model that onnxruntime can load; make it again") from None
    inputs = {given.name: list(given.shape) for given in session.get_inputs()}
    outputs = session.get_outputs()
    if inputs != _INPUTS or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise UserError(f"{model}: not a descriptor of Tercel's patches; make it with python -m registration.train")
    return session
