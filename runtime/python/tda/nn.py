"""Modules for transformers."""
import torch
from torch import nn

from . import _lib, compile


def rotary(x, positions, base=10000.0):
    """Rotary position embedding of [batch, length, heads, dim]: the pairs (x[d], x[d + dim / 2]) turn with the position."""
    half = x.shape[-1] // 2
    angles = positions.float()[:, None] * base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :half].float(), x[..., half:].float()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class ThresholdDifferentialAttention(nn.Module):
    """Self-attention [batch, length, dim] -> [batch, length, dim], in place of the softmax attention of a transformer block.

    One projection makes q and k of every view and v; q and k get rotary positions; the spec's attention follows, its learned
    parameters being this module's (module.learned["beta"], ["lambda"], ...), then RMSNorm over each head, by the spec's
    kernels where it has one, and the output's projection.

    spec: as tda.compile takes it, with any number of views; settings are its options, without head_dim and dtype.
    layer: for specs with parameters or formulas by layer. dtype: of q, k and v in the attention, which they are converted
    to; the module's own weights have their own. rope_base=None: no rotary positions. kv_heads: heads of k and v, which
    divide heads.

    Learned parameters are float32. Outside of the bounds of the spec, [0, 1] for lambda, the attention sees the bound while
    the gradient still reaches the parameter, so that it can come back.
    """

    def __init__(self, dim, heads, *, kv_heads=None, head_dim=None, spec="tda_rmsnorm", layer=0, dtype="bf16",
                 rope_base=10000.0, norm=True, bias=False, target=None, plan=None, **settings):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.head_dim = head_dim or dim // heads
        self.layer, self.rope_base = layer, rope_base
        self.attention = compile(spec, head_dim=self.head_dim, dtype=dtype, target=target, plan=plan, **settings)
        self.views, value_dim = self.attention.views, self.attention.value_dim
        self.widths = [self.views * self.heads * self.head_dim, self.views * self.kv_heads * self.head_dim,
                       self.kv_heads * value_dim]
        self.inputs = nn.Linear(dim, sum(self.widths), bias=bias)
        self.outputs = nn.Linear(self.heads * value_dim, dim, bias=bias)
        self.norm = nn.RMSNorm(value_dim, eps=1e-6) if norm and not self.attention.program.rms_norm else nn.Identity()
        self.learned = nn.ParameterDict({p.name: nn.Parameter(torch.full((self._entries(p),), p.init, dtype=torch.float32))
                                         for p in self.attention.params})

    def _entries(self, param):
        """Of the parameter in this layer."""
        return self.attention.program.param_length(param, self.heads, 1)

    def extra_repr(self):
        return f"heads={self.heads}, kv_heads={self.kv_heads}, layer={self.layer}, {self.attention}"

    def _parameter(self, param):
        value = self.learned[param.name].float()
        if param.min > -float("inf") or param.max < float("inf"):
            value = value + (value.clamp(param.min, param.max) - value).detach()
        if param.shape in (_lib.ParamShape.PER_LAYER, _lib.ParamShape.PER_LAYER_HEAD):
            value = value.expand(self.layer + 1, -1).reshape(-1)       # the launch reads the layer's entries alone
        return value

    def heads_of(self, x):
        """(q, k, v, parameters by name) for the attention: q and k a list of views, [batch, length, heads, dim]."""
        batch, length, _ = x.shape
        q, k, v = self.inputs(x).split(self.widths, -1)
        q, k = q.view(batch, length, -1, self.head_dim), k.view(batch, length, -1, self.head_dim)
        if self.rope_base is not None:
            positions = torch.arange(length, device=x.device)
            q, k = rotary(q, positions, self.rope_base), rotary(k, positions, self.rope_base)
        dtype = self.attention.dtype
        q, k = q.to(dtype).split(self.heads, 2), k.to(dtype).split(self.kv_heads, 2)
        v = v.view(batch, length, self.kv_heads, -1).to(dtype)
        return q, k, v, {p.name: self._parameter(p) for p in self.attention.params}

    def forward(self, x):
        q, k, v, params = self.heads_of(x)
        o = self.attention(q=q, k=k, v=v, layer=self.layer, layout="bthd", **params)
        return self.outputs(self.norm(o.to(x.dtype)).flatten(2))
