"""Byte-level BPE as GGUF readers know it: model "gpt2", pre-tokenizer "llama-bpe"."""
import heapq
import json
import os
from collections import Counter, defaultdict

import regex

# The Llama-3 split. Merges never cross the pieces it cuts.
SPLIT = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|pad|>"]
SEPARATOR = "<|endoftext|>"          # the line between two stories of the corpus


def byte_alphabet():
    """GPT-2's printable stand-in for each of the 256 bytes."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


BYTES = byte_alphabet()
UNBYTES = {c: b for b, c in BYTES.items()}


def stories(text):
    """The stories of a corpus file, separator lines removed."""
    return [s for s in (part.strip("\n") for part in text.split(SEPARATOR)) if s]


def train(text, vocab_size):
    """Learn merges by pair counts, with a heap whose stale entries are dropped when popped."""
    counts = Counter(m.group() for s in stories(text) for m in SPLIT.finditer(s))
    words = [[BYTES[b] for b in w.encode()] for w in counts]
    freq = list(counts.values())
    pairs, where = Counter(), defaultdict(set)
    for i, w in enumerate(words):
        for p in zip(w, w[1:]):
            pairs[p] += freq[i]
            where[p].add(i)
    heap = [(-n, p) for p, n in pairs.items()]
    heapq.heapify(heap)
    tokens = sorted(BYTES.values())
    known, merges = set(tokens), []
    while len(tokens) < vocab_size - len(SPECIALS):
        n, pair = heapq.heappop(heap)
        if -n != pairs[pair]:
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        joined = pair[0] + pair[1]
        merges.append(pair)
        if joined not in known:        # two merges may spell the same token
            known.add(joined)
            tokens.append(joined)
        touched = set()
        for i in where.pop(pair):
            w = words[i]
            for p in zip(w, w[1:]):
                pairs[p] -= freq[i]
            out, k = [], 0
            while k < len(w):
                if k + 1 < len(w) and (w[k], w[k + 1]) == pair:
                    out.append(joined)
                    k += 2
                else:
                    out.append(w[k])
                    k += 1
            words[i] = out
            for p in zip(out, out[1:]):
                pairs[p] += freq[i]
                where[p].add(i)
                touched.add(p)
        pairs.pop(pair, None)
        for p in touched:
            heapq.heappush(heap, (-pairs[p], p))
    return tokens + SPECIALS, merges


class Tokenizer:
    def __init__(self, tokens, merges):
        self.tokens, self.merges = tokens, [tuple(m) for m in merges]
        self.ids = {t: i for i, t in enumerate(tokens)}
        self.rank = {m: r for r, m in enumerate(self.merges)}
        self.bos, self.eos, self.eot, self.pad = (self.ids[s] for s in SPECIALS)
        self.cache = {}

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as f:
            d = json.load(f)
        return cls(d["tokens"], d["merges"])

    def save(self, path):
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump({"tokens": self.tokens, "merges": self.merges}, f, ensure_ascii=False)
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + ".tmp", path)

    def _piece(self, piece):
        w = [BYTES[b] for b in piece.encode()]
        whole = self.ids.get("".join(w))
        if whole is not None:          # llama-bpe takes a known piece whole, merges or not
            return [whole]
        while len(w) > 1:
            r, k = min((self.rank.get(p, 1 << 30), k) for k, p in enumerate(zip(w, w[1:])))
            if r == 1 << 30:
                break
            w[k:k + 2] = [w[k] + w[k + 1]]
        return [self.ids[t] for t in w]

    def encode(self, text):
        """Plain text to ids; no special token is recognised in it."""
        out = []
        for m in SPLIT.finditer(text):
            piece = m.group()
            ids = self.cache.get(piece)
            if ids is None:
                ids = self.cache[piece] = self._piece(piece)
            out += ids
        return out

    def decode(self, ids):
        raw = bytearray()
        for i in ids:
            t = self.tokens[i]
            raw += t.encode() if t in SPECIALS else bytes(UNBYTES[c] for c in t)
        return raw.decode("utf-8", "replace")
