#!/usr/bin/python3
"""Recipe of the demo model. See README.md for the order of the commands."""
import argparse
import calendar
import json
import math
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import data
import fused
import gguf
import model
from tokenizer import Tokenizer, train as train_bpe

SHAPE = dict(vocab=4096, dim=384, layers=6, heads=6, kv_heads=2, head_dim=64, ffn=1024)
DEFAULTS = dict(batch=32, ctx=256, muon_lr=0.02, muon_wd=0.02, adam_lr=4e-3, warmup=100,
                decay=0.5, clip=1.0)


# ---- optimiser -----------------------------------------------------------------------------

def orthogonal(g, steps=5):
    """Newton-Schulz iteration (the Muon optimiser): g's singular values to about 1. Batched, bf16."""
    if tall := g.shape[1] > g.shape[2]:
        g = g.transpose(1, 2)
    x = (g.float() / (g.float().norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16().contiguous()
    for _ in range(steps):
        a = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.transpose(1, 2) if tall else x


class Optimizer:
    """Muon for the ternary matrices (stacked by shape), AdamW for embedding and norms."""
    def __init__(self, p):
        self.p, self.state, self.groups = p, {}, {}
        for k, v in p.items():
            if model.is_linear(k):
                self.groups.setdefault(tuple(v.shape), []).append(k)
                self.state[k] = torch.zeros_like(v)
            else:
                self.state[k] = torch.zeros(2, *v.shape)

    @torch.no_grad()
    def muon(self, grad, keys, lr, decay):
        s = self.p[keys[0]].shape
        g = fused.bf16(len(keys), *s)
        for k, b in zip(keys, g):      # Nesterov momentum
            fused.call("momentum", grad[k], self.state[k], b, b.numel(), 0.95)
        for k, u in zip(keys, orthogonal(g)):
            fused.call("descend", self.p[k], u.contiguous(), u.numel(), lr * max(1, s[0] / s[1]) ** 0.5, 1 - lr * decay)

    @torch.no_grad()
    def adam(self, grad, n, scale, o):
        rest = [k for k in self.p if not model.is_linear(k)]
        norm = math.sqrt(sum(grad[k].square().sum().item() for k in rest))
        clip = min(1.0, o["clip"] / (norm + 1e-6))
        lr, b1, b2 = o["adam_lr"] * scale, 0.9, 0.98
        for k in rest:
            m, q = self.state[k]
            g = grad[k].mul_(clip)
            m.lerp_(g, 1 - b1)
            q.mul_(b2).addcmul_(g, g, value=1 - b2)
            d = (q / (1 - b2 ** n)).sqrt_().add_(1e-8)
            self.p[k].addcdiv_(m, d, value=-lr / (1 - b1 ** n))
        return norm

    def step(self, pool, grad, n, scale, o):
        """In parallel pieces; the global norm of embedding and norm gradients comes back."""
        norm = pool.submit(self.adam, grad, n, scale, o)
        jobs = [pool.submit(self.muon, grad, keys[i:i + 3], o["muon_lr"] * scale, o["muon_wd"])
                for keys in self.groups.values() for i in range(0, len(keys), 3)]
        for j in jobs:
            j.result()
        return norm.result()


class Workers:
    """Threads that take quarters of a batch as they get free, one core each. A machine shared with
    other work makes threads that split each product wait for one another all the time."""
    def __init__(self, p, n):
        self.p, self.lock = p, threading.Lock()
        self.pool = ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))

    def part(self, ids, share, total):
        loss = model.train_loss(self.p, SHAPE, ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), share)
        g = torch.autograd.grad(loss, list(self.p.values()))
        with self.lock, torch.no_grad():
            if total:
                torch._foreach_add_(list(total.values()), list(g))
            else:
                total.update(zip(self.p, (t.contiguous() for t in g)))
        return loss.item()

    def gradient(self, ids):
        total = {}
        parts = torch.from_numpy(ids).chunk(4)
        jobs = [self.pool.submit(self.part, b, len(b) / len(ids), total) for b in parts]
        return sum(j.result() for j in jobs), total


# ---- training ------------------------------------------------------------------------------

def save(path, obj):
    """A killed run leaves the old file or the new one, never half of one."""
    with open(path + ".tmp", "wb") as f:
        torch.save(obj, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def options(args):
    """Defaults, overridden by DIR/control.json, which may change while the run goes on."""
    o = dict(DEFAULTS)
    try:
        with open(os.path.join(args.dir, "control.json")) as f:
            o.update(json.load(f))
    except FileNotFoundError:
        pass
    o["end"] = calendar.timegm(time.strptime(o["deadline"], "%Y-%m-%dT%H:%M:%SZ"))
    return o


def rate(o, n, t0, now):
    """Warm-up by steps; flat; then linear to zero at the deadline, by the clock."""
    left = (o["end"] - now) / (o["decay"] * (o["end"] - t0))
    return max(0.0, min(1.0, n / o["warmup"], left))


def cmd_train(args):
    tok = Tokenizer.load(os.path.join(args.dir, "tokenizer.json"))
    win = data.Windows(tok, *data.prepare(tok, args.corpus, os.path.join(args.dir, "train.npz")))
    ck = os.path.join(args.dir, "checkpoint.pt")
    p = model.init(SHAPE, 7)
    opt = Optimizer(p)
    st = dict(step=0, pos=0, tokens=0, t0=time.time())
    if os.path.exists(ck):
        c = torch.load(ck)
        for k in p:
            p[k].copy_(c["p"][k])
            opt.state[k].copy_(c["opt"][k])
        st = c["st"]
    for v in p.values():
        v.requires_grad_()
    work = Workers(p, args.threads)
    held = tok.encode(data.read_text(args.heldout)[:24000]) if args.heldout else []
    stop = []
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: stop.append(1))

    def checkpoint():
        save(ck, dict(p={k: v.detach() for k, v in p.items()}, opt=opt.state, st=st, shape=SHAPE))

    o, seen, t_log, loss_sum, n_sum = options(args), 0, time.time(), 0.0, 0
    t_save = t_eval = time.time()
    print(f"{sum(v.numel() for v in p.values())/1e6:.2f} M parameters, {len(win.ids)} training tokens, "
          f"from step {st['step']}", flush=True)
    while time.time() < o["end"] and not stop:
        ids, st["pos"] = win.batch(st["step"], st["pos"], o["batch"], o["ctx"])
        loss, grad = work.gradient(ids)
        st["step"] += 1
        scale = rate(o, st["step"], st["t0"], time.time())
        norm = opt.step(work.pool, grad, st["step"], scale, o)
        st["tokens"] += ids[:, 1:].size
        seen += ids[:, 1:].size
        loss_sum, n_sum = loss_sum + loss, n_sum + 1
        now = time.time()
        if n_sum == 20:
            left = max(0, o["end"] - now)
            print(f"{time.strftime('%H:%M:%S', time.gmtime())} step {st['step']} loss {loss_sum/n_sum:.4f} "
                  f"gnorm {norm:.2f} lr x{scale:.3f} {seen/(now-t_log):.0f} tokens/s "
                  f"seen {st['tokens']/1e6:.2f} M ETA {left/60:.1f} min", flush=True)
            seen, t_log, loss_sum, n_sum, o = 0, now, 0.0, 0, options(args)
        if now - t_save > args.save_every:
            checkpoint()
            t_save = time.time()
        if held and now - t_eval > args.eval_every:
            with torch.no_grad():
                b = bits(model.freeze({k: v.detach() for k, v in p.items()}), tok, held, args.eval_ctx)
            print(f"    held-out head: {b / 24000:.4f} bits/byte (exact fp32)", flush=True)
            t_eval = t_log = time.time()
            seen, loss_sum, n_sum = 0, 0.0, 0
    checkpoint()
    print("finished", st, flush=True)


# ---- measuring -----------------------------------------------------------------------------

@torch.no_grad()
def bits(frozen, tok, ids, n):
    """Sum of -log2 p over ids, in windows of n-1 tokens behind a BOS each."""
    total, w = 0.0, n - 1
    full = len(ids) // w
    batches = [torch.tensor(ids[:full * w]).view(full, w)[i:i + 16] for i in range(0, full, 16)]
    if len(ids) % w:
        batches.append(torch.tensor(ids[full * w:])[None])
    for b in batches:
        x = torch.cat((torch.full((len(b), 1), tok.bos), b[:, :-1]), 1)
        lp = torch.log_softmax(model.exact_logits(frozen, SHAPE, x), -1)
        total -= lp.gather(2, b[..., None]).sum().item() / math.log(2)
    return total


def load_frozen(args):
    """(frozen parameters, tokenizer) of a GGUF or of the checkpoint in DIR."""
    if args.gguf:
        return gguf.load(args.gguf)
    c = torch.load(os.path.join(args.dir, "checkpoint.pt"))
    return model.freeze(c["p"]), Tokenizer.load(os.path.join(args.dir, "tokenizer.json"))


def cmd_eval(args):
    p, tok = load_frozen(args)
    text = data.read_text(args.heldout)
    ids = tok.encode(text)
    b = bits(p, tok, ids, args.eval_ctx)
    n = len(text.encode())
    print(json.dumps(dict(model=os.path.basename(args.gguf or "checkpoint.pt"), bytes=n, tokens=len(ids),
                          ctx=args.eval_ctx, bits_per_byte=round(b / n, 5),
                          perplexity=round(2 ** (b / len(ids)), 3))))


def cmd_export(args):
    c = torch.load(os.path.join(args.dir, "checkpoint.pt"))
    tok = Tokenizer.load(os.path.join(args.dir, "tokenizer.json"))
    p = model.freeze(c["p"])
    gguf.save(args.gguf, p, SHAPE, tok)
    q, tok2 = gguf.load(args.gguf)     # read back: same codes, same scales, same logits
    assert tok2.tokens == tok.tokens and tok2.merges == tok.merges
    for k in p:
        if model.is_linear(k):
            assert torch.equal(p[k][0], q[k][0]) and p[k][1] == q[k][1], k
    p["token_embd"] = p["token_embd"].half()
    x = torch.tensor([[tok.bos] + tok.encode("Once upon a time there was a little rabbit who lived in")])
    with torch.no_grad():
        a, b = (model.exact_logits(m, SHAPE, x) for m in (p, q))
    assert torch.equal(a, b)
    print(f"{args.gguf}: {os.path.getsize(args.gguf)} bytes, read back with equal logits, step {c['st']['step']}")


@torch.no_grad()
def generate(p, tok, ids, n, temperature, top_p, rng):
    cache, x, out = {}, torch.tensor([ids]), []
    while len(out) < n:
        lp = model.exact_logits(p, SHAPE, x, cache)[0, -1] / max(temperature, 1e-4)
        pr, order = torch.softmax(lp, -1).sort(descending=True)
        keep = (pr.cumsum(0) - pr) < top_p
        pr = pr * keep
        i = order[torch.multinomial(pr, 1, generator=rng)].item()
        if i in (tok.eos, tok.eot, tok.bos):
            break
        out.append(i)
        x = torch.tensor([[i]])
    return tok.decode(out)


def cmd_sample(args):
    p, tok = load_frozen(args)
    rng = torch.Generator().manual_seed(args.seed)
    for k in range(args.count):
        ids = data.chat_prompt(tok, args.prompt) if args.chat else [tok.bos] + tok.encode(args.prompt)
        print(f"--- {k + 1}\n{'' if args.chat else args.prompt}"
              + generate(p, tok, ids, args.tokens, args.temperature, args.top_p, rng), flush=True)


def cmd_tokenizer(args):
    Tokenizer(*train_bpe(data.read_text(args.corpus), SHAPE["vocab"])).save(os.path.join(args.dir, "tokenizer.json"))


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("command", choices=["tokenizer", "train", "eval", "export", "sample"])
    a.add_argument("--corpus", help="training text, .txt or .txt.xz")
    a.add_argument("--dir", default=".", help="tokenizer, checkpoint and control.json live here")
    a.add_argument("--heldout")
    a.add_argument("--gguf")
    a.add_argument("--eval-ctx", type=int, default=256)
    a.add_argument("--save-every", type=float, default=180)
    a.add_argument("--eval-every", type=float, default=300)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--prompt", default="Once upon a time")
    a.add_argument("--chat", action="store_true")
    a.add_argument("--count", type=int, default=1)
    a.add_argument("--tokens", type=int, default=200)
    a.add_argument("--temperature", type=float, default=0.8)
    a.add_argument("--top-p", type=float, default=0.95)
    a.add_argument("--seed", type=int, default=1)
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    globals()["cmd_" + args.command](args)


if __name__ == "__main__":
    sys.exit(main())
