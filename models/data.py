"""Corpus to training windows: text cut anywhere, and tales asked for in the chat format."""
import lzma
import os
import random
from collections import Counter

import numpy as np
import regex

from tokenizer import stories

NAME = regex.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")
NOT_NAMES = set("Mother Father Uncle Aunt Miss Mrs God Lord Heaven Yes Oh And But The You Well "
                "Sir Madam Christmas English Very Then Now There What When Come Once".split())
NOUNS = ("rabbit fox bear princess king queen giant dragon witch wolf squirrel mouse frog toad owl "
         "crow duck hen pig horse pony dog cat lion prince fairy dwarf goblin wizard beaver skunk "
         "bird monkey elephant boy girl farmer miller shepherd soldier tailor fisherman doll "
         "donkey goat goose sheep lamb beetle butterfly bee cricket turtle mole weasel otter "
         "raccoon woodchuck deer snake tiger sea castle").split()
ASK = ["Tell me a tale about {}.", "Tell me a story about {}.", "Write a tale about {}.",
       "Please tell me a tale about {}.", "Tell a story of {}.", "A story about {}, please.",
       "Can you tell me a story about {}?", "I would like a tale about {}."]
ASK_ANY = ["Tell me a tale.", "Tell me a story.", "Tell me a bedtime story.", "Write a short story."]


def read_text(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as f:
        return f.read()


def topics(story):
    """What one might have asked for to get this story: its usual names and creatures."""
    n = Counter(m for m in NAME.findall(story) if m not in NOT_NAMES)
    names = [w for w, k in n.most_common(3) if k >= 3]
    n = Counter(regex.findall(r"[a-z]+", story[:4000].lower()))
    nouns = [("an " if w[0] in "aeio" else "a ") + w
             for w in sorted(NOUNS, key=lambda w: -n[w] - n[w + "s"])[:2] if n[w] + n[w + "s"] >= 3]
    return names, nouns


def chat_prompt(tok, text):
    """The served chat template with one user message and the prompt for an answer."""
    return [tok.bos] + tok.encode("User: " + text) + [tok.eot] + tok.encode("Assistant: ")


def prepare(tok, path, out):
    """Encode the corpus once; cached."""
    if not os.path.exists(out):
        ss = stories(read_text(path))
        ids = [np.array(tok.encode(s) + [tok.eos, tok.bos], np.uint16) for s in ss]
        tp = np.array(["|".join(",".join(t) for t in topics(s)) for s in ss])
        np.savez(out + ".tmp.npz", ids=np.concatenate(ids), ends=np.cumsum([len(i) for i in ids]), topics=tp)
        os.replace(out + ".tmp.npz", out)
    z = np.load(out)
    return z["ids"], z["ends"], [[t.split(",") if t else [] for t in s.split("|")] for s in z["topics"]]


class Windows:
    """Batches by number, so that a resumed run goes on where it was. Every window starts with BOS."""
    def __init__(self, tok, ids, ends, tops, seed=1):
        self.tok, self.ids, self.ends, self.tops, self.seed = tok, ids, ends, tops, seed
        self.starts = np.concatenate(([0], ends[:-1]))
        self.short = np.flatnonzero(ends - self.starts < 700)
        self.perm = {}

    def stream(self, pos, T):
        """Window at running position pos (in tokens): epochs of shuffled, shifted cuts."""
        n = len(self.ids) // T - 1
        e, k = divmod(pos // T, n)
        if (e, T) not in self.perm:
            rng = np.random.default_rng((self.seed, e, T))
            self.perm = {(e, T): (rng.permutation(n), rng.integers(T))}
        perm, shift = self.perm[e, T]
        a = shift + perm[k] * T
        return np.concatenate(([self.tok.bos], self.ids[a:a + T]))

    def chat(self, rng, T):
        out = []
        while len(out) < T + 1:
            i = int(rng.choice(self.short)) if rng.random() < 0.4 else rng.randrange(len(self.ends))
            names, nouns = self.tops[i]
            pool = names + nouns
            if pool and rng.random() < 0.95:
                t = rng.choice(pool)
                if len(pool) > 1 and rng.random() < 0.3:
                    t = " and ".join(rng.sample(pool, 2))
                ask = rng.choice(ASK).format(t)
            else:
                ask = rng.choice(ASK_ANY)
            if rng.random() < 0.2:
                ask = ask.rstrip(".")
            a, b = self.starts[i], self.ends[i] - 1          # ends with eos
            out += chat_prompt(self.tok, ask) + self.ids[a:min(b, a + T)].tolist()
        return np.array(out[:T + 1], np.int64)

    def start(self, rng, T):
        """A story from its first word, as an asker of plain completion begins."""
        a = self.starts[rng.randrange(len(self.starts))]
        w = self.ids[a:a + T]
        return np.concatenate(([self.tok.bos], w, np.full(T - len(w), self.tok.eos)))

    def batch(self, step, pos, B, T):
        """[B, T+1] ids and the stream position after it: 1/8 chat, 1/16 story starts, else text."""
        rng = random.Random(f"{self.seed}/{step}")
        rows = [self.chat(rng, T) for _ in range(max(1, B // 8))]
        rows += [self.start(rng, T) for _ in range(max(1, B // 16))]
        while len(rows) < B:
            rows.append(self.stream(pos, T))
            pos += T
        return np.stack(rows).astype(np.int64), pos
