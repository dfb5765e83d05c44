"""Compiles and binds fused.c; torch autograd functions around it."""
import ctypes
import os
import subprocess
import tempfile

import torch

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fused.c")


def build():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "fused.so")
        subprocess.check_call([os.environ.get("CC", "cc"), "-O3", "-march=native", "-mprefer-vector-width=512",
                               "-ffast-math", "-fopenmp", "-fPIC", "-shared", "-o", out, SOURCE, "-lm"])
        return ctypes.CDLL(out)


C = build()
# glibc by default maps and unmaps every large buffer, and the page faults take a fifth of the step:
# M_MMAP_MAX 0, M_TRIM_THRESHOLD and M_TOP_PAD high, M_ARENA_MAX 1 keep the memory.
for option, n in ((-4, 0), (-1, 2 ** 31 - 1), (-2, 2 ** 28), (-8, 1)):
    ctypes.CDLL(None).mallopt(option, n)


def call(name, *args):
    a = []
    for x in args:
        if isinstance(x, torch.Tensor):
            assert x.is_contiguous()
            a.append(ctypes.c_void_p(x.data_ptr()))
        else:
            a.append(ctypes.c_float(x) if isinstance(x, float) else ctypes.c_long(x))
    getattr(C, name)(*a)


def bf16(*shape):
    return torch.empty(shape, dtype=torch.bfloat16)


class AddNorm(torch.autograd.Function):
    """(x + d, normquant(x + d)): the residual stream and the next layer's input."""
    @staticmethod
    def forward(ctx, x, d, g, quant):
        y, o, r = torch.empty_like(x), bf16(*x.shape), torch.empty(len(x))
        call("add_norm", x, d, g, y, o, r, *x.shape, quant)
        ctx.save_for_backward(y, r, g)
        return y, o

    @staticmethod
    def backward(ctx, gy, go):
        y, r, g = ctx.saved_tensors
        gx, gd, gg = gy.clone(), bf16(*y.shape), torch.zeros_like(g)
        call("add_norm_back", go.contiguous(), y, g, r, gg, gx, gd, *y.shape)
        return gx, gd, gg, None


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        o, r = bf16(*x.shape), torch.empty(len(x))
        call("norm", x, g, o, r, *x.shape)
        ctx.save_for_backward(x, r, g)
        return o

    @staticmethod
    def backward(ctx, go):
        x, r, g = ctx.saved_tensors
        gx, gg = bf16(*x.shape), torch.zeros_like(g)
        call("norm_back", go.contiguous(), x, g, r, gg, gx, *x.shape)
        return gx, gg


class Gate(torch.autograd.Function):
    """normquant(relu(gate)^2 * up) of rows [gate | up]"""
    @staticmethod
    def forward(ctx, gu, g):
        n, k = gu.shape
        o, r = bf16(n, k // 2), torch.empty(n)
        call("gate", gu, g, o, r, n, k // 2)
        ctx.save_for_backward(gu, r, g)
        return o

    @staticmethod
    def backward(ctx, go):
        gu, r, g = ctx.saved_tensors
        ggu, gg = torch.empty_like(gu), torch.zeros_like(g)
        call("gate_back", go.contiguous(), gu, g, r, gg, ggu, len(gu), gu.shape[1] // 2)
        return ggu, gg


class Ternary(torch.autograd.Function):
    """x @ [ternary(w) for w in ws]^T; the gradient goes straight through to the real weights."""
    @staticmethod
    def forward(ctx, x, *ws):
        ctx.rows = [len(w) for w in ws]
        q = bf16(sum(ctx.rows), x.shape[1])
        for w, o in zip(ws, q.split(ctx.rows)):
            call("ternary", w, o, w.numel())
        ctx.save_for_backward(x, q)
        return torch.mm(x, q.t())

    @staticmethod
    def backward(ctx, gy):
        x, q = ctx.saved_tensors
        return (torch.mm(gy, q),) + torch.mm(gy.t(), x).float().split(ctx.rows)


class Attention(torch.autograd.Function):
    """[B*T, (H + 2 KV) * D] projections to [B*T, H * D]. The H/KV query heads of a KV head are
    folded into its rows, so that a product serves them all."""
    @staticmethod
    def forward(ctx, qkv, cos, sin, B, T, H, KV, D):
        q, k, v = bf16(B * KV, H // KV * T, D), bf16(B * KV, T, D), bf16(B * KV, T, D)
        call("rope", qkv, q, k, v, cos, sin, D ** -0.5, B, T, H, KV, D, 0)
        p = torch.bmm(q, k.transpose(1, 2))
        call("softmax", p, B * H, T)
        a = bf16(B * T, H * D)
        call("swap", torch.bmm(p, v), a, B, H, T, D)
        ctx.save_for_backward(q, k, v, p, cos, sin)
        ctx.dims = B, T, H, KV, D
        return a

    @staticmethod
    def backward(ctx, ga):
        q, k, v, p, cos, sin = ctx.saved_tensors
        B, T, H, KV, D = ctx.dims
        go = torch.empty_like(q)
        call("swap", ga.contiguous(), go, B, T, H, D)
        gs = torch.bmm(go, v.transpose(1, 2))
        call("softmax_back", p, gs, B * H, T)
        gv = torch.bmm(p.transpose(1, 2), go)
        gk = torch.bmm(gs.transpose(1, 2), q)
        gqkv = bf16(B * T, (H + 2 * KV) * D)
        call("rope", gqkv, torch.bmm(gs, k), gk, gv, cos, sin, D ** -0.5, B, T, H, KV, D, 1)
        return (gqkv,) + (None,) * 7


class Head(torch.autograd.Function):
    """Tied head and mean cross-entropy, by chunks, with the gradients made on the way: the whole
    table of logits is never kept."""
    @staticmethod
    def forward(ctx, x, e, target, share):
        eb, n, step = e.bfloat16(), len(x), 2048
        gx, ge, loss = torch.empty_like(x), torch.zeros_like(e), torch.empty(n)
        for i in range(0, n, step):
            xi = x[i:i + step]
            p = torch.mm(xi, eb.t())
            call("cross_entropy", p, target[i:i + step], share / n, loss[i:i + step], *p.shape)
            gx[i:i + step] = torch.mm(p, eb)
            ge += torch.mm(p.t(), xi)
        ctx.save_for_backward(gx, ge)
        return loss.mean() * share

    @staticmethod
    def backward(ctx, gy):
        gx, ge = ctx.saved_tensors
        return gx, ge, None, None      # the loss is never scaled
