"""GGUF of a bitnet-b1.58 model: I2_S (type 36, blocks of 128 weights in 32 bytes), F16, F32."""
import os
import struct

import numpy as np
import torch

from model import is_linear
from tokenizer import SPECIALS, Tokenizer

ARCH, ALIGN = "bitnet-b1.58", 32
CHAT = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
        "message['role'] | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}")
ORDER = ["attn_norm", "ffn_down", "ffn_sub_norm", "ffn_gate", "ffn_up", "ffn_norm", "attn_sub_norm",
         "attn_k", "attn_output", "attn_q", "attn_v"]          # as published files have it


def pack(codes, scale):
    """Byte j of a block holds elements j, 32+j, 64+j, 96+j from the high bits down."""
    q = (codes.numpy().astype(np.int8) + 1).astype(np.uint8).reshape(-1, 4, 32)
    b = q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]
    return b.tobytes() + struct.pack("<f", float(scale)) + bytes(28)


def unpack(raw, n):
    b = np.frombuffer(raw[:n // 4], np.uint8).reshape(-1, 1, 32)
    q = b >> np.array([6, 4, 2, 0], np.uint8).reshape(1, 4, 1) & 3
    assert q.max() < 3
    return torch.from_numpy(q.reshape(-1).astype(np.float32) - 1), torch.tensor(struct.unpack_from("<f", raw, n // 4)[0])


def string(s):
    s = s.encode()
    return struct.pack("<Q", len(s)) + s


def value(v):
    """(type, bytes) of a key's value."""
    if isinstance(v, bool):
        return 7, struct.pack("<?", v)
    if isinstance(v, int):
        return 4, struct.pack("<I", v)
    if isinstance(v, float):
        return 6, struct.pack("<f", v)
    if isinstance(v, str):
        return 8, string(v)
    kind, items = v                    # ("s" | "f" | "i", list)
    body = b"".join(map(string, items)) if kind == "s" else struct.pack(f"<{len(items)}{kind}", *items)
    return 9, struct.pack("<IQ", {"s": 8, "f": 6, "i": 5}[kind], len(items)) + body


def save(path, p, c, tok):
    kinds = [3 if t in SPECIALS else 1 for t in tok.tokens]
    a = ARCH + "."
    keys = {
        "general.architecture": ARCH, "general.name": "tales", "general.license": "apache-2.0",
        "general.description": "Small ternary model of English children's tales",
        a + "vocab_size": c["vocab"], a + "context_length": 2048, a + "embedding_length": c["dim"],
        a + "block_count": c["layers"], a + "feed_forward_length": c["ffn"],
        a + "rope.dimension_count": c["head_dim"], a + "attention.head_count": c["heads"],
        a + "attention.head_count_kv": c["kv_heads"], "tokenizer.ggml.add_bos_token": True,
        a + "attention.layer_norm_rms_epsilon": 1e-5, a + "rope.freq_base": 500000.0,
        "general.file_type": 40, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ("s", tok.tokens), "tokenizer.ggml.scores": ("f", [0.0] * len(kinds)),
        "tokenizer.ggml.token_type": ("i", kinds),
        "tokenizer.ggml.merges": ("s", [" ".join(m) for m in tok.merges]),
        "tokenizer.ggml.bos_token_id": tok.bos, "tokenizer.ggml.eos_token_id": tok.eos,
        "tokenizer.ggml.eot_token_id": tok.eot, "tokenizer.ggml.padding_token_id": tok.pad,
        "tokenizer.chat_template": CHAT, "general.quantization_version": 2}
    names = ["token_embd"] + [f"blk.{i}.{n}" for i in range(c["layers"]) for n in ORDER] + ["output_norm"]
    infos, blobs, at = b"", [], 0
    for n in names:
        if is_linear(n):
            shape, kind, raw = p[n][0].shape, 36, pack(*p[n])
        elif n == "token_embd":
            shape, kind, raw = p[n].shape, 1, p[n].half().numpy().tobytes()
        else:
            shape, kind, raw = p[n].shape, 0, p[n].float().numpy().tobytes()
        raw += bytes(-len(raw) % ALIGN)
        infos += string(n + ".weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, at)
        blobs.append(raw)
        at += len(raw)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), len(keys))
    for k, v in keys.items():
        t, raw = value(v)
        head += string(k) + struct.pack("<I", t) + raw
    head += infos
    with open(path + ".tmp", "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN) + b"".join(blobs))
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def load(path):
    """(frozen parameters, tokenizer) of a file made by save()."""
    with open(path, "rb") as f:
        b = f.read()
    at = 4

    def get(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, b, at)
        at += struct.calcsize("<" + fmt)
        return v if len(v) > 1 else v[0]

    def text():
        nonlocal at
        n = get("Q")
        at += n
        return b[at - n:at].decode()

    def val(t):
        if t == 8:
            return text()
        if t == 9:
            e, n = get("IQ")
            return [val(e) for _ in range(n)]
        return get({4: "I", 5: "i", 6: "f", 7: "?"}[t])

    _, nt, nk = get("IQQ")
    keys = {}
    for _ in range(nk):
        k = text()
        keys[k] = val(get("I"))
    infos = []
    for _ in range(nt):
        name, nd = text(), get("I")
        dims = [get("Q") for _ in range(nd)]
        infos.append((name, dims) + get("IQ"))
    base, p = at + -at % ALIGN, {}
    for name, dims, kind, off in infos:
        n, shape, o = int(np.prod(dims)), dims[::-1], base + off
        if kind == 36:
            q, s = unpack(b[o:o + n // 4 + 32], n)
            t = q.view(shape), s
        else:
            t = torch.from_numpy(np.frombuffer(b, {0: np.float32, 1: np.float16}[kind], n, o).copy()).view(shape)
        p[name[:-len(".weight")]] = t
    merges = [m.split(" ") for m in keys["tokenizer.ggml.merges"]]
    return p, Tokenizer(keys["tokenizer.ggml.tokens"], merges)
