# SPDX-License-Identifier: Apache-2.0
"""What a user would export a network to: OpenVINO and ONNX Runtime, where they are installed.

Both get the function in plain PyTorch and the tensors that it takes; weights that it closes over become constants,
which they pack as they like. A rival's values must be those of eager PyTorch, or it is none.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Function = Callable[..., Tensor]


class _Module(nn.Module):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.f(*tensors)


def openvino(
    f: Function, tensors: tuple[Tensor, ...], threads: int, precision: str
) -> Callable[[], Any] | None:
    """f on float32 tensors, computed in `precision` ("float32" or "bfloat16"): inputs and results stay float32."""
    try:
        import openvino as ov
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(_Module(f), example_input=tensors)
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    # the shapes of the example: what is compiled for them need not look at them again
    model.reshape({i: list(t.shape) for i, t in enumerate(tensors)})
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    # the request holds addresses alone: whoever calls it keeps the arrays
    inputs = {i: ov.Tensor(np.array(t.numpy()), shared_memory=False) for i, t in enumerate(tensors)}
    for i, given in inputs.items():
        request.set_input_tensor(i, given)

    def run(inputs: Any = inputs) -> np.ndarray[Any, Any]:
        request.infer()
        result: np.ndarray[Any, Any] = request.get_output_tensor(0).data
        return result

    return run


def onnxruntime(f: Function, tensors: tuple[Tensor, ...], threads: int) -> Callable[[], Any] | None:
    """f on float32 tensors; None where torch cannot export it. Its CPU kernels have no bfloat16."""
    try:
        import onnx  # noqa: F401 - what torch writes the graph with
        import onnxruntime as ort
    except ImportError:
        return None
    written = io.BytesIO()
    names = [f"x{i}" for i in range(len(tensors))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Module(f),
                tensors,
                written,
                input_names=names,
                output_names=["y"],
                dynamo=False,
                opset_version=20,
            )
        except torch.onnx.errors.UnsupportedOperatorError:  # rms_norm
            return None
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    # else its threads wait for the next call at full speed for a tenth of a second and more, on the cores of whoever
    # comes after it: float32 products on two threads then ran at the speed of one
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(written.getvalue(), options, providers=["CPUExecutionProvider"])
    bound, inputs = session.io_binding(), [np.array(t.numpy()) for t in tensors]
    taken = {i.name for i in session.get_inputs()}
    for name, array in zip(names, inputs, strict=True):
        if name in taken:
            bound.bind_cpu_input(name, array)
    bound.bind_output("y")

    def run(inputs: Any = inputs) -> np.ndarray[Any, Any]:
        session.run_with_iobinding(bound)
        return bound.get_outputs()[0].numpy()

    return run


def peers(
    f: Function, tensors: tuple[Tensor, ...], threads: int, precision: str, tolerance: float
) -> dict[str, Callable[[], Any]]:
    """The rivals that are installed, take f and agree with it within `tolerance` of the largest value."""
    wide = tuple(t.float() for t in tensors)
    with torch.inference_mode():
        want = f(*wide).numpy()
    found = {}
    for name, make in (
        ("openvino", lambda: openvino(f, wide, threads, precision)),
        ("onnxruntime", lambda: onnxruntime(f, wide, threads) if precision == "float32" else None),
    ):
        rival = make()
        if rival is None:
            continue
        error = float(np.abs(rival() - want).max() / np.abs(want).max())
        if not error < tolerance:
            raise AssertionError(f"{name} is {error:.1e} of the largest value away from eager PyTorch")
        found[name] = rival
    return found
