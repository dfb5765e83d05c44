#!/bin/bash
# timeout: 300
# The whole engine on an emulated GPU: the CPU's logits within rounding and its tokens, and the same bytes however a sequence is cut.
cd "$(dirname "$0")/.." || exit 1
tool=${BITNET_BUILD:-build/release}/emulated/bitnet
if [ "$(uname -m)" != x86_64 ] || [ "${SAN:-}" = thread ]; then
    echo "skip cuda: the engine on an emulated GPU (for x86-64, and not with the thread sanitizer)"
    exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok cuda: $1"; else echo "not ok cuda: $1"; sed 's/^/  # /' "$work/log"; failed=1; fi
}
logits() { # MODEL DEVICE OUTPUT OPTION...: of $work/ids
    "$tool" logits --model "$1" --device "$2" --tokens "$work/ids" --threads 1 --output "$work/$3" "${@:4}" >"$work/log" 2>&1
}
# near EXPECTED FOUND N_TOKENS LIMIT: the cosine of a token's logits is LIMIT or more, and the largest logit the same.
near() {
    node -e '
        const { readFileSync } = require("fs"), [expected, found, nTokens, limit] = process.argv.slice(1);
        const read = (path) => { const b = readFileSync(path); return new Float32Array(b.buffer, b.byteOffset, b.length / 4); };
        const a = read(expected), b = read(found), n = a.length / Number(nTokens);
        if (a.length !== b.length || !Number.isInteger(n) || !n) throw Error(`${a.length} and ${b.length} logits of ${nTokens} tokens`);
        for (let t = 0; t < Number(nTokens); t++) {
            let [ab, aa, bb, bestA, bestB] = [0, 0, 0, 0, 0];
            for (let i = t * n; i < (t + 1) * n; i++) {
                ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
                if (a[i] > a[t * n + bestA]) bestA = i - t * n;
                if (b[i] > b[t * n + bestB]) bestB = i - t * n;
            }
            const cosine = ab / Math.sqrt(aa * bb);
            if (!(cosine >= Number(limit)) || bestA !== bestB) throw Error(`token ${t}: cosine ${cosine}, best ${bestA} and ${bestB}`);
        }' "$work/$1" "$work/$2" "$3" "$4" >>"$work/log" 2>&1
}

synth() { "$tool" synth --preset "$1" --seed 7 --output "$work/$1.gguf" >"$work/log" 2>&1; }
synth tiny && synth tiny-qwen3
check "models with random weights" $?
seq -s ' ' 30 7 254 >"$work/ids" # 33 tokens
# Where a value is quantised, a last bit may move it by a step; random weights carry that further than trained ones.
for model in models/tales.gguf "$work/tiny.gguf" "$work/tiny-qwen3.gguf"; do
    name=$(basename "$model" .gguf) limit=0.999
    [ "$name" = tales ] && limit=0.9999
    for kv in f16 int8; do
        logits "$model" cpu cpu --kv-type $kv && logits "$model" cuda:0 whole --kv-type $kv && near cpu whole 33 $limit
        check "$name, $kv: the CPU's logits" $?
    done
    logits "$model" cuda:0 parts --kv-type int8 --chunk 7 && cmp "$work/whole" "$work/parts" >>"$work/log"
    check "$name: chunks of 7 give the same bytes" $?
    logits "$model" cuda:0 alone --kv-type int8 --chunk 1 && cmp "$work/whole" "$work/alone" >>"$work/log"
    check "$name: tokens alone, too" $?
done
# same NAME OPTION...: both devices generate the same text.
same() {
    local name=$1 device
    shift
    for device in cpu cuda:0; do # the last one's log stays
        "$tool" run --model models/tales.gguf --device $device --threads 1 --prompt "Once upon a time there was a" --quiet "$@" >"$work/$device" 2>"$work/log"
    done
    [ -s "$work/cpu" ] && diff "$work/cpu" "$work/cuda:0" >>"$work/log"
    check "$name" $?
}
same "greedy tokens are the CPU's" --max-tokens 24 --temperature 0
same "tokens that are drawn, too" --max-tokens 16 --temperature 1 --seed 1
same "tokens drawn from the best ones, too" --max-tokens 16 --temperature 0.8 --top-k 40 --top-p 0.9 --repetition-penalty 1.2 --seed 3
# The 2,500th launch fails, and all after it: in the midst of the text.
export CUDA_EMULATOR_FAIL=2500
same "where the device is lost meanwhile, the text goes on" --max-tokens 40 --temperature 1 --seed 2
unset CUDA_EMULATOR_FAIL
grep -q 'the model has moved to another device' "$work/log"
check "and the log says that it did" $?
(unset SAN MAKEFLAGS MAKELEVEL && make -C kernels -j2 OUT="$work/build" EMULATED=1 PART='kept rows' gpu-check gpu-bench) >"$work/log" 2>&1 &&
    grep -q '^1 of 1 cases passed' "$work/log" && grep -q '^head, ' "$work/log"
check "the programs of check and bench run" $?
exit $failed
