#!/usr/bin/env bash
# One proxy with Megatron-LM: train_megatron.sh MIXTURE OUT SEED DATA (see megatron.md)
set -euo pipefail

mixture=$1 out=$2 seed=$3 data=$4
: "${MEGATRON:?set it to your checkout of Megatron-LM}" "${TOKENIZER:?set it to the name or folder of a Hugging Face tokenizer}"
steps=${STEPS:-2000}

# WEIGHT PREFIX WEIGHT PREFIX ... without domains of weight zero, which Megatron refuses; and one validation set per domain.
readarray -t blend < <(python3 - "$mixture" "$data" <<'PYTHON'
import json, sys
for name, weight in json.load(open(sys.argv[1]))["weights"].items():
    if weight > 0:
        print(repr(weight), f"{sys.argv[2]}/{name}/train_text_document", sep="\n")
PYTHON
)
readarray -t validation < <(python3 - "$mixture" "$data" <<'PYTHON'
import json, sys
for name in json.load(open(sys.argv[1]))["weights"]:
    print(f"{sys.argv[2]}/{name}/validation_text_document")
PYTHON
)

torchrun --standalone --nproc-per-node "${GPUS:-1}" "$MEGATRON/pretrain_gpt.py" \
  --train-data-path "${blend[@]}" \
  --valid-data-path "${validation[@]}" --multiple-validation-sets --full-validation \
  --data-cache-path "$data/cache" --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$TOKENIZER" \
  --seed $((seed % 2147483647 + 1)) \
  --use-mcore-models --num-layers 6 --hidden-size 384 --num-attention-heads 6 --seq-length 1024 --max-position-embeddings 1024 \
  --position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear --bf16 \
  --micro-batch-size 16 --global-batch-size 128 --train-iters "$steps" \
  --lr 1e-3 --min-lr 1e-4 --lr-decay-style cosine --lr-warmup-iters 100 --weight-decay 0.1 --clip-grad 1.0 \
  --eval-interval "$steps" --eval-iters 1 --log-interval 50 \
  --save "$out/checkpoint" --load "$out/checkpoint" --save-interval 500 | tee "$out/megatron.log"

# " validation-0 loss at iteration 2000 on validation set | lm loss value: 3.141593E+00 | ...": the last line of each set counts.
python3 - "$mixture" "$out" <<'PYTHON'
import json, re, sys
from pathlib import Path
mixture, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
names, losses = list(mixture["weights"]), {}
for line in (out / "megatron.log").read_text().splitlines():
    if found := re.search(r"validation-(\d+) loss at .*?\| lm loss value: (\S+)", line):
        losses[names[int(found[1])]] = float(found[2])
(out / "metrics.json").write_text(json.dumps({"losses": losses}))
PYTHON
