# SPDX-License-Identifier: Apache-2.0
"""A whole block of a diffusion transformer in one call: the other ops, over memory that is planned once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .adaln_modulate import adaln_modulate
from .adaln_modulate import reference as adaln_modulate_reference
from .attention import attention, scaled_dot_product
from .attention import reference as attention_reference
from .dit_block_plan import is_numpy, plan_for
from .gated_residual import gated_residual
from .gated_residual import reference as gated_residual_reference
from .gated_residual_adaln import gated_residual_adaln
from .gated_residual_adaln import reference as gated_residual_adaln_reference
from .linear import linear
from .linear import reference as linear_reference
from .pack_linear import PackedWeight, packed_bytes
from .qk_norm_rope import qk_norm_rope
from .qk_norm_rope import reference as qk_norm_rope_reference
from .registration import Op, _core, compiled, expect_shape, launch, new_empty, torch
from .swiglu import reference as swiglu_reference
from .swiglu import swiglu

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DiTBlockWeights:
    """What one block owns. Matrices are packed (`pack_linear`, all of one dtype) or plain, all or none.

    qkv: [(H + 2·Hk)·D, C] with D = C / H; out: [C, C]; expand: [2F, C]; contract: [C, F]; cross_q and cross_out:
    [C, C], both or none. Each has a bias or none. first, cross and second: weight and bias [C] of the three norms; q
    and k: weight and bias [D] of the heads' norms, q_cross of the queries' in cross attention.
    """

    qkv: Any
    out: Any
    expand: Any
    contract: Any
    cross_q: Any = None
    cross_out: Any = None
    qkv_bias: Any = None
    out_bias: Any = None
    expand_bias: Any = None
    contract_bias: Any = None
    cross_q_bias: Any = None
    cross_out_bias: Any = None
    first_weight: Any = None
    first_bias: Any = None
    cross_weight: Any = None
    cross_bias: Any = None
    second_weight: Any = None
    second_bias: Any = None
    q_weight: Any = None
    q_bias: Any = None
    k_weight: Any = None
    k_bias: Any = None
    q_cross_weight: Any = None
    q_cross_bias: Any = None


MATRICES = ("qkv", "out", "expand", "contract", "cross_q", "cross_out")
WEIGHTS = tuple(f.name for f in fields(DiTBlockWeights))
INPUTS = ("x", "modulation", "cos", "sin", "k", "v", "mask")
TENSORS = (*INPUTS, *WEIGHTS)
OPTIONS = (
    "packing", "heads", "kv_heads", "inner", "norm", "eps", "qk_norm", "qk_eps", "pairing", "gate_form", "gate_first",
)  # fmt: skip


def dit_block(
    x: Any,
    weights: DiTBlockWeights,
    heads: int,
    modulation: Any = None,
    cos: Any = None,
    sin: Any = None,
    k: Any = None,
    v: Any = None,
    mask: Any = None,
    *,
    kv_heads: int = 0,
    norm: str = "layer",
    eps: float = 1e-6,
    qk_norm: str = "none",
    qk_eps: float = 1e-6,
    pairing: str = "half",
    gate_form: str = "plain",
    gate_first: bool = False,
    recompute: bool = False,
) -> Any:
    """x += g₁·self(adaln(x; s₁, c₁)); x += cross(norm(x); k, v); x += g₂·ff(adaln(x; s₂, c₂)), ff = W₂ swiglu(W₁ ·).

    Equal to `adaln_modulate`, `linear`, `qk_norm_rope`, `attention`, `gated_residual_adaln` and `swiglu` one after
    another up to rounding; on the CPU and without gradients it allocates nothing but its result once a thread has
    seen the sizes.

    Args:
        x: [B, T, C], float32, bfloat16 or float16 (float64 runs through the reference).
        weights: of x's dtype where they are not packed; vectors always.
        heads: H; kv_heads: Hk of the self attention, H where it is 0.
        modulation: [B, 6, C], (s₁, c₁, g₁, s₂, c₂, g₂) with s the shifts; without it nothing is modulated or gated.
        cos, sin: [T, r/2], as in `qk_norm_rope`; they rotate the self attention's queries and keys.
        k, v: [B, S, Hc, D], keys (normalised already) and values of the context; there where cross_q is.
        mask: bool [B, S], True where the context has a key.
        norm, eps: as in `adaln_modulate`; qk_norm ("none", "layer", "rms"), qk_eps, pairing: as in `qk_norm_rope`.
        gate_form: as in `gated_residual`; gate_first: as in `swiglu`.
        recompute: keep the inputs alone for the backward, which then computes the block again: a forward pass more,
            for the memory of what the ops record otherwise, one after another. Compiled by torch.compile, the block
            always recomputes.

    Returns:
        [B, T, C], dtype and kind (torch, NumPy, …) of x. Differentiable in x, modulation, k, v and all weights that
        are not packed.

    Raises:
        ValueError: a shape or an option that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: DiT (Peebles and Xie, arXiv 2212.09748); cross attention as in PixArt-α (arXiv 2310.00426).

    >>> import numpy as np
    >>> zeros = DiTBlockWeights(*(np.zeros(s, np.float32) for s in ((12, 4), (4, 4), (16, 4), (4, 8))))
    >>> dit_block(np.ones((1, 2, 4), np.float32), zeros, heads=2)
    array([[[1., 1., 1., 1.],
            [1., 1., 1., 1.]]], dtype=float32)
    """
    packing, data, inner = _flat(weights)
    options = (
        packing,
        heads,
        kv_heads or heads,
        inner,
        norm,
        eps,
        qk_norm,
        qk_eps,
        pairing,
        gate_form,
        gate_first,
    )
    tensors = (x, modulation, cos, sin, k, v, mask, *data)
    if not recompute and _recorded(tensors):
        _check(*tensors, *options)
        return composed(_BY_OPS, *tensors, *options)
    return _op(*tensors, *options)


def _recorded(tensors: Sequence[Any]) -> bool:
    """Whether autograd follows what the kernels do with them, outside of torch.compile, which is shown one op."""
    if torch is None or not compiled() or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors)


def _flat(weights: DiTBlockWeights) -> tuple[str, list[Any], int]:
    """How the matrices are packed, all arrays in the order of WEIGHTS, and F."""
    matrices = [getattr(weights, name) for name in MATRICES]
    packings = {m.packing if isinstance(m, PackedWeight) else "" for m in matrices if m is not None}
    if len(packings) != 1:
        raise ValueError("dit_block: weights must be packed for products of one dtype, or none of them")
    contract = weights.contract
    if isinstance(contract, PackedWeight):
        inner = contract.in_features
    else:
        inner = contract.shape[1] if len(contract.shape) == 2 else 0
    arrays = [getattr(weights, name) for name in WEIGHTS]
    return packings.pop(), [a.data if isinstance(a, PackedWeight) else a for a in arrays], inner


_BY_OPS = SimpleNamespace(
    adaln_modulate=adaln_modulate,
    linear=linear,
    qk_norm_rope=qk_norm_rope,
    attention=attention,
    gated_residual=gated_residual,
    gated_residual_adaln=gated_residual_adaln,
    swiglu=swiglu,
)
_BY_REFERENCES = SimpleNamespace(
    adaln_modulate=adaln_modulate_reference,
    linear=linear_reference,
    qk_norm_rope=qk_norm_rope_reference,
    attention=attention_reference,
    gated_residual=gated_residual_reference,
    gated_residual_adaln=gated_residual_adaln_reference,
    swiglu=swiglu_reference,
)


def _named(arguments: Sequence[Any]) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip((*TENSORS, *OPTIONS), arguments, strict=True)))


def composed(run: Any, *arguments: Any) -> Any:
    """The block by the functions of `run`: the ops or their references."""
    a = _named(arguments)
    B, T, C = a.x.shape
    H, Hk = a.heads, a.kv_heads
    D = C // H
    s1, c1, g1, s2, c2, g2 = [None] * 6 if a.modulation is None else [a.modulation[:, i] for i in range(6)]

    def product(x: Any, name: str, N: int) -> Any:
        weight = getattr(a, name)
        if a.packing:
            dtype, _, rows = a.packing.partition("-")
            weight = PackedWeight(weight, dtype, N, x.shape[-1], rows or "panels")
        return run.linear(x, weight, getattr(a, f"{name}_bias"))

    def leave(x: Any, branch: Any, gate: Any, shift: Any, scale: Any, name: str) -> Any:
        vectors = (shift, scale, getattr(a, f"{name}_weight"), getattr(a, f"{name}_bias"))
        return run.gated_residual_adaln(x, branch, gate, *vectors, a.eps, a.norm, a.gate_form)

    y = run.adaln_modulate(a.x, s1, c1, a.first_weight, a.first_bias, a.eps, a.norm)
    qkv = product(y, "qkv", (H + 2 * Hk) * D)
    norms = (a.q_weight, a.k_weight, a.q_bias, a.k_bias)
    q, k = run.qk_norm_rope(
        qkv, a.cos, a.sin, *norms, heads=H, kv_heads=Hk, norm=a.qk_norm, eps=a.qk_eps, pairing=a.pairing
    )
    v = qkv[..., (H + Hk) * D :].reshape(B, T, Hk, D)
    x, gate = a.x, g1
    branch = product(run.attention(q, k, v).reshape(B, T, C), "out", C)
    if a.cross_q is not None:
        x, y = leave(x, branch, gate, None, None, "cross")
        q = product(y, "cross_q", C).reshape(B, T, H, D)
        if a.qk_norm != "none":
            q = run.qk_norm_rope(
                q, None, None, a.q_cross_weight, None, a.q_cross_bias, norm=a.qk_norm, eps=a.qk_eps
            )[0]
        branch = product(run.attention(q, a.k, a.v, mask=a.mask).reshape(B, T, C), "cross_out", C)
        gate = None
    x, y = leave(x, branch, gate, s2, c2, "second")
    branch = product(run.swiglu(product(y, "expand", 2 * a.inner), a.gate_first), "contract", C)
    return x + branch if g2 is None else run.gated_residual(x, branch, g2, a.gate_form)


def reference(
    x: Any, weights: DiTBlockWeights, heads: int, *inputs: Any, fast_attention: bool = False, **options: Any
) -> Tensor:
    """The block in plain PyTorch: oracle and documentation of `dit_block`, with its arguments.

    fast_attention: by torch's scaled_dot_product_attention, as a baseline of time.
    """
    given = {**dict(zip(INPUTS[1:], inputs, strict=False)), **options}
    packing, data, inner = _flat(weights)
    defaults = {"norm": "layer", "eps": 1e-6, "qk_norm": "none", "qk_eps": 1e-6, "pairing": "half"}
    o = {**defaults, "gate_form": "plain", "gate_first": False, **given}
    o |= {"packing": packing, "heads": heads, "kv_heads": given.get("kv_heads") or heads, "inner": inner}
    tensors = (x, *(o.get(name) for name in INPUTS[1:]), *data)
    run = _BY_REFERENCES
    if fast_attention:
        run = SimpleNamespace(**{**vars(run), "attention": scaled_dot_product})
    y: Tensor = composed(run, *tensors, *(o[name] for name in OPTIONS))
    return y


def _reference(*arguments: Any) -> Any:
    return composed(_BY_REFERENCES, *arguments)


# ---- checks


def _check(*arguments: Any) -> None:
    a = _named(arguments)
    op, x = "dit_block", a.x
    if len(x.shape) != 3:
        raise ValueError(f"{op}: x must have 3 dimensions, got shape {list(x.shape)}")
    B, T, C = x.shape
    for name in ("heads", "kv_heads"):
        if getattr(a, name) < 1:
            raise ValueError(f"{op}: {name} must be at least 1, got {getattr(a, name)}")
    H, Hk, F = a.heads, a.kv_heads, a.inner
    if C % H:
        raise ValueError(f"{op}: heads must divide x's {C} channels, got {H}")
    if H % Hk:
        raise ValueError(f"{op}: kv_heads must divide heads, {H}, got {Hk}")
    D = C // H
    if (a.cross_q is None) != (a.cross_out is None):
        raise ValueError(f"{op}: cross_q and cross_out must be given together")
    for name in ("k", "v"):
        if (getattr(a, name) is None) != (a.cross_q is None):
            raise ValueError(f"{op}: {name} must be given where cross_q is, and nowhere else")
    sizes = {
        "qkv": ((H + 2 * Hk) * D, C), "out": (C, C), "expand": (2 * F, C), "contract": (C, F),
        "cross_q": (C, C), "cross_out": (C, C),
    }  # fmt: skip
    for name, (N, K) in sizes.items():
        expect_shape(op, name, getattr(a, name), (packed_bytes(a.packing, N, K),) if a.packing else (N, K))
        expect_shape(op, f"{name}_bias", getattr(a, f"{name}_bias"), (N,))
    for name in ("first", "cross", "second"):
        for part in ("weight", "bias"):
            expect_shape(op, f"{name}_{part}", getattr(a, f"{name}_{part}"), (C,))
    for name in ("q", "k", "q_cross"):
        for part in ("weight", "bias"):
            vector = getattr(a, f"{name}_{part}")
            expect_shape(op, f"{name}_{part}", vector, (D,))
            if vector is not None and a.qk_norm == "none":
                raise ValueError(f"{op}: {name}_{part} must be left out for qk_norm 'none'")
    expect_shape(op, "modulation", a.modulation, (B, 6, C))
    if (a.cos is None) != (a.sin is None):
        raise ValueError(f"{op}: cos and sin must be given together")
    if a.cos is not None:
        if len(a.cos.shape) != 2 or a.cos.shape[0] != T or 2 * a.cos.shape[1] > D:
            raise ValueError(f"{op}: cos must be [{T}, at most {D // 2}], got {list(a.cos.shape)}")
        expect_shape(op, "sin", a.sin, tuple(a.cos.shape))
    _check_context(op, a, B, H, D)
    _check_options(op, a)
    for name in TENSORS:
        tensor = getattr(a, name)
        if tensor is None or name in ("x", "cos", "sin", "mask") or (a.packing and name in MATRICES):
            continue
        if tensor.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {tensor.dtype}")


def _check_context(op: str, a: Any, B: int, H: int, D: int) -> None:
    if a.k is None:
        if a.mask is not None:
            raise ValueError(f"{op}: mask must be left out where there is no context")
        return
    if len(a.k.shape) != 4:
        raise ValueError(f"{op}: k must have 4 dimensions, got shape {list(a.k.shape)}")
    S, Hc = a.k.shape[1:3]
    expect_shape(op, "k", a.k, (B, S, Hc, D))
    if Hc < 1 or H % Hc:
        raise ValueError(f"{op}: k must have a number of heads that divides {H}, got shape {list(a.k.shape)}")
    expect_shape(op, "v", a.v, (B, S, Hc, D))
    expect_shape(op, "mask", a.mask, (B, S))
    if a.mask is not None and not str(a.mask.dtype).endswith("bool"):
        raise TypeError(f"{op}: mask must be bool, got {a.mask.dtype}")


def _check_options(op: str, a: Any) -> None:
    for name, allowed in (
        ("norm", ("layer", "rms")),
        ("qk_norm", ("none", "layer", "rms")),
        ("pairing", ("half", "interleaved")),
        ("gate_form", ("plain", "sigmoid")),
    ):
        if getattr(a, name) not in allowed:
            raise ValueError(f"{op}: {name} must be one of {', '.join(allowed)}, got '{getattr(a, name)}'")
    for name in ("eps", "qk_eps"):
        if not getattr(a, name) >= 0:
            raise ValueError(f"{op}: {name} must be at least 0, got {getattr(a, name)}")


# ---- on the CPU: kernels that write into one planned piece of memory


def _kernel(*arguments: Any) -> Any:
    _check(*arguments)
    a = _named(arguments)
    x = a.x
    on_cpu = x.device.type == "cpu" if torch is not None and isinstance(x, torch.Tensor) else is_numpy(x)
    if not on_cpu:
        return composed(_BY_OPS, *arguments)
    out = new_empty(x, x.shape)
    B, T, C = x.shape
    if not B * T * C:
        return out
    H, Hk, F = a.heads, a.kv_heads, a.inner
    p, scale = plan_for(x, H, Hk, F), (C // H) ** -0.5
    s1, c1, g1, s2, c2, g2 = [None] * 6 if a.modulation is None else [a.modulation[:, i] for i in range(6)]

    def product(rows: Any, name: str, N: int, y: Any) -> None:
        weight, bias = getattr(a, name), getattr(a, f"{name}_bias")
        launch(_core.linear, rows, weight, bias, None, None, 1.0, a.packing, N, None, y)

    def attend(q: Any, k: Any, v: Any, mask: Any, y: Any) -> None:
        launch(_core.attention, q, k, v, None, None, mask, None, -1, -1, scale, y, None, None)

    def leave(x: Any, gate: Any, shift: Any, scale: Any, name: str, r: Any) -> None:
        vectors = (shift, scale, getattr(a, f"{name}_weight"), getattr(a, f"{name}_bias"))
        launch(_core.gated_residual_adaln, x, p.branch, gate, *vectors, a.eps, a.norm, a.gate_form, r, p.y)

    launch(_core.adaln_modulate, x, s1, c1, a.first_weight, a.first_bias, a.eps, a.norm, p.y)
    product(p.y_rows, "qkv", (H + 2 * Hk) * (C // H), p.qkv_rows)
    norms = (a.q_weight, a.k_weight, a.q_bias, a.k_bias, None, None)
    settings = (H, Hk, a.qk_norm, a.qk_eps, a.pairing)
    launch(_core.qk_norm_rope, p.qkv, None, a.cos, a.sin, *norms, *settings, p.q, p.k)
    attend(p.q, p.k, p.v, None, p.attended)
    product(p.attended_rows, "out", C, p.branch_rows)
    gate = g1
    if a.cross_q is not None:
        leave(x, gate, None, None, "cross", p.after_self)
        product(p.y_rows, "cross_q", C, p.cross_q_rows)
        q = p.cross_q
        if a.qk_norm != "none":
            norms = (a.q_cross_weight, None, a.q_cross_bias, None, None, None)
            settings = (0, 0, a.qk_norm, a.qk_eps, a.pairing)
            launch(_core.qk_norm_rope, q, None, None, None, *norms, *settings, p.cross_q_normed, None)
            q = p.cross_q_normed
        attend(q, a.k, a.v, a.mask, p.cross_attended)
        product(p.cross_attended_rows, "cross_out", C, p.branch_rows)
        x, gate = p.after_self, None
    leave(x, gate, s2, c2, "second", p.after_cross)
    product(p.y_rows, "expand", 2 * F, p.expanded)
    launch(_core.swiglu, p.expanded, a.gate_first, p.gated)
    product(p.gated, "contract", C, p.branch_rows)
    form = "plain" if g2 is None else a.gate_form
    launch(_core.gated_residual, p.after_cross, p.branch, p.ones if g2 is None else g2, form, out)
    return out


_op = Op(
    f"dit_block(Tensor x, {', '.join(f'Tensor? {n}' for n in INPUTS[1:])},"
    f" {', '.join(f'Tensor {n}' for n in WEIGHTS[:4])}, {', '.join(f'Tensor? {n}' for n in WEIGHTS[4:])},"
    " str packing, int heads, int kv_heads, SymInt inner, str norm, float eps, str qk_norm, float qk_eps,"
    " str pairing, str gate_form, bool gate_first) -> Tensor",
    kernel=_kernel,
    reference=_reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)


# ---- backward: the block again, by ops that record


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[: len(TENSORS)])
    ctx.options = inputs[len(TENSORS) :]


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[: len(TENSORS)]
    inputs = [
        t.detach().requires_grad_() if need else t for t, need in zip(ctx.saved_tensors, needed, strict=True)
    ]
    with torch.enable_grad():
        y = composed(_BY_OPS, *inputs, *ctx.options)
    leaves = [t for t, need in zip(inputs, needed, strict=True) if need]
    grads = iter(torch.autograd.grad(y, leaves, dy, allow_unused=True))
    return (*(next(grads) if need else None for need in needed), *[None] * len(OPTIONS))


_op.gradient(_gradient, _setup)
