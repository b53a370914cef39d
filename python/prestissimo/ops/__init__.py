# SPDX-License-Identifier: Apache-2.0
"""Drop-in ops with CPU SIMD and CUDA kernels. Each file holds one op: reference, function, fake kernel, gradient."""

from .adaln_modulate import adaln_modulate
from .apg_combine import apg_combine
from .attention import attention
from .cfg_combine import cfg_combine
from .conv1d import PackedConv1d, conv1d, pack_conv1d
from .conv_transpose1d import PackedConvTranspose1d, conv_transpose1d, pack_conv_transpose1d
from .ctm_map import ctm_map
from .depthwise_conv1d import depthwise_conv1d
from .dit_block import DiTBlockWeights, dit_block
from .dmd_gradient import dmd_gradient
from .dynamic_threshold import dynamic_threshold
from .edm_denoise import edm_denoise
from .edm_precondition import edm_precondition
from .gated_residual import gated_residual
from .gated_residual_adaln import gated_residual_adaln
from .geglu import geglu
from .graft_update import graft_update
from .hidden_variance import hidden_variance
from .hierarchy_argmax import hierarchy_argmax
from .hierarchy_probs import hierarchy_probs
from .info_nce import info_nce
from .info_nce_gathered import info_nce_gathered
from .inverse_stft import inverse_stft
from .layer_drop import layer_drop
from .linear import linear, linear_error
from .ot_topk import ot_topk
from .pack_linear import PackedWeight, pack_linear
from .peak_phase import peak_phase
from .philox_gumbel import philox_gumbel
from .philox_normal import philox_normal
from .project_phase import project_phase
from .pseudo_huber import pseudo_huber
from .qk_norm_rope import qk_norm_rope
from .quantize_rows import quantize_rows
from .registration import MissingKernelError, compiled, strict_kernels
from .relaxed_topk import relaxed_topk
from .renoise import renoise
from .sampler_step import sampler_step
from .segment_similarity import segment_similarity
from .sigmoid_topk import sigmoid_topk
from .snake import snake
from .sparse_topk import sparse_topk
from .spectrum_from_bands import spectrum_from_bands
from .squared_norm import squared_norm
from .swiglu import swiglu

__all__ = [
    "DiTBlockWeights",
    "MissingKernelError",
    "PackedConv1d",
    "PackedConvTranspose1d",
    "PackedWeight",
    "adaln_modulate",
    "apg_combine",
    "attention",
    "cfg_combine",
    "compiled",
    "conv1d",
    "conv_transpose1d",
    "ctm_map",
    "depthwise_conv1d",
    "dit_block",
    "dmd_gradient",
    "dynamic_threshold",
    "edm_denoise",
    "edm_precondition",
    "gated_residual",
    "gated_residual_adaln",
    "geglu",
    "graft_update",
    "hidden_variance",
    "hierarchy_argmax",
    "hierarchy_probs",
    "info_nce",
    "info_nce_gathered",
    "inverse_stft",
    "layer_drop",
    "linear",
    "linear_error",
    "ot_topk",
    "pack_conv1d",
    "pack_conv_transpose1d",
    "pack_linear",
    "peak_phase",
    "philox_gumbel",
    "philox_normal",
    "project_phase",
    "pseudo_huber",
    "qk_norm_rope",
    "quantize_rows",
    "relaxed_topk",
    "renoise",
    "sampler_step",
    "segment_similarity",
    "sigmoid_topk",
    "snake",
    "sparse_topk",
    "spectrum_from_bands",
    "squared_norm",
    "strict_kernels",
    "swiglu",
]
