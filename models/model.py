"""The BitNet b1.58 2B4T block in torch: a fast bf16 form to train, an exact fp32 form to measure."""
import math

import torch
import torch.nn.functional as F

import fused

EPS, THETA = 1e-5, 500000.0
LINEARS = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
NORMS = ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"]


def shapes(c):
    """GGUF names of all tensors and their [out, in] shapes."""
    d, f, kv = c["dim"], c["ffn"], c["kv_heads"] * c["head_dim"]
    q = c["heads"] * c["head_dim"]
    out = {"token_embd": (c["vocab"], d), "output_norm": (d,)}
    for i in range(c["layers"]):
        b = f"blk.{i}."
        out.update({b + "attn_norm": (d,), b + "attn_q": (q, d), b + "attn_k": (kv, d),
                    b + "attn_v": (kv, d), b + "attn_sub_norm": (q,), b + "attn_output": (d, q),
                    b + "ffn_norm": (d,), b + "ffn_gate": (f, d), b + "ffn_up": (f, d),
                    b + "ffn_sub_norm": (f,), b + "ffn_down": (d, f)})
    return out


def init(c, seed):
    torch.manual_seed(seed)
    p = {}
    for name, s in shapes(c).items():
        if len(s) == 1:
            p[name] = torch.ones(s)
        elif name == "token_embd":
            p[name] = torch.randn(s) * 0.03
        else:                          # only the ratio to the step matters: the scale is learnt
            p[name] = torch.randn(s) / math.sqrt(s[1])
            if name.endswith(("attn_output", "ffn_down")):
                p[name] /= math.sqrt(2 * c["layers"])
    return p


def is_linear(name):
    return name.rsplit(".", 1)[-1] in LINEARS


def ternary(w):
    """(codes in {-1, 0, 1}, scale): absmean of the tensor. The scale is rounded to bf16 so that
    codes * scale is the same number in bf16 training and in the exported file."""
    s = w.abs().mean().clamp(min=1e-5).bfloat16().float()
    return (w / s).round_().clamp_(-1, 1), s


def rope_tables(n, head_dim):
    f = THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    a = torch.arange(n, dtype=torch.float64)[:, None] * f[None]
    return a.cos().float(), a.sin().float()


def rope(x, cos, sin):
    """NEOX order: the pair of element j is j + head_dim/2. x: [B, H, T, head_dim]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


# ---- training form -------------------------------------------------------------------------
# Matrix products run in bf16, where CPUs with AMX are several times faster. Codes and scales are
# exact in it; the int8 activations divided by their scale are rounded once more, as noise.

def train_loss(p, c, ids, target, share=1.0):
    """Mean loss times share (the part of a batch that this is), and its gradient likewise."""
    B, T = ids.shape
    cos, sin = rope_tables(T, c["head_dim"])
    x = F.embedding(ids.view(-1), p["token_embd"])
    d = torch.zeros_like(x, dtype=torch.bfloat16)
    for i in range(c["layers"]):
        w = {k: p[f"blk.{i}.{k}"] for k in LINEARS + NORMS}
        x, h = fused.AddNorm.apply(x, d, w["attn_norm"], 1)
        qkv = fused.Ternary.apply(h, w["attn_q"], w["attn_k"], w["attn_v"])
        a = fused.Attention.apply(qkv, cos, sin, B, T, c["heads"], c["kv_heads"], c["head_dim"])
        d = fused.Ternary.apply(fused.Norm.apply(a, w["attn_sub_norm"]), w["attn_output"])
        x, h = fused.AddNorm.apply(x, d, w["ffn_norm"], 1)
        gu = fused.Ternary.apply(h, w["ffn_gate"], w["ffn_up"])
        d = fused.Ternary.apply(fused.Gate.apply(gu, w["ffn_sub_norm"]), w["ffn_down"])
    _, h = fused.AddNorm.apply(x, d, p["output_norm"], 0)
    return fused.Head.apply(h, p["token_embd"], target.view(-1), share)


# ---- exact form ----------------------------------------------------------------------------

def freeze(p):
    """Real weights to what a file holds: ternary tensors as (codes, scale)."""
    return {k: ternary(v) if is_linear(k) else v for k, v in p.items()}


def rms_norm(x, g):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * g


def bit_linear(x, w):
    """W1.58 A8 as the server computes it; sums of int8 * ternary are exact in fp32 (< 2^24)."""
    s = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return F.linear((x * s).round().clamp(-128, 127), w[0]) / s * w[1]


def exact_logits(p, c, ids, cache=None):
    """fp32 logits of frozen parameters. With cache (a dict), ids continue what it holds."""
    B, T = ids.shape
    H, KV, D = c["heads"], c["kv_heads"], c["head_dim"]
    t0 = cache.get("n", 0) if cache is not None else 0
    cos, sin = (t[t0:] for t in rope_tables(t0 + T, D))
    mask = torch.full((T, t0 + T), float("-inf")).triu(t0 + 1)
    x = p["token_embd"].float()[ids]
    for i in range(c["layers"]):
        w = {k: p[f"blk.{i}.{k}"] for k in LINEARS + NORMS}
        h = rms_norm(x, w["attn_norm"])
        q, k, v = (bit_linear(h, w[n]).view(B, T, -1, D).transpose(1, 2) for n in LINEARS[:3])
        q, k, v = (t.half().float() for t in (rope(q, cos, sin), rope(k, cos, sin), v))
        if cache is not None:
            if i in cache:
                k, v = torch.cat((cache[i][0], k), 2), torch.cat((cache[i][1], v), 2)
            cache[i] = (k, v)
        k, v = (t.repeat_interleave(H // KV, 1) for t in (k, v))
        a = torch.softmax(q @ k.transpose(2, 3) * D ** -0.5 + mask, -1) @ v
        a = a.transpose(1, 2).reshape(B, T, H * D)
        x = x + bit_linear(rms_norm(a, w["attn_sub_norm"]), w["attn_output"])
        h = rms_norm(x, w["ffn_norm"])
        h = F.relu(bit_linear(h, w["ffn_gate"])).square() * bit_linear(h, w["ffn_up"])
        x = x + bit_linear(rms_norm(h, w["ffn_sub_norm"]), w["ffn_down"])
    if cache is not None:
        cache["n"] = t0 + T
    return F.linear(rms_norm(x, p["output_norm"]), p["token_embd"].float())
