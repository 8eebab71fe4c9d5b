#!/usr/bin/env bash
# The demo: a small arXiv and a few web pages of our own to a model that AutoModelForCausalLM loads.
# Promise: 2 CPU cores, 4 GB of memory, 300 MB of disk, under 5 minutes after installation, no network, no compiler.
# Killed at any moment, the same command goes on where it was. To start anew: make clean.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=runs/demo # mixture.json names it, too
SAMPLE=dataset_train_val/sample
export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=${WANDB_MODE:-disabled}

say() { printf '\n== %s\n' "$*"; }

say "1/7 sources to text: $OUT/dataset, with its account as pictures in $OUT/report.html"
python data_prep/prepare_dataset.py --metadata $SAMPLE/metadata.jsonl --sources $SAMPLE/sources --out $OUT/dataset --val-frac 0.1
python data_prep/report.py $OUT/dataset --out $OUT/report.html

say "2/7 a second source: $OUT/web"
python data_prep/external.py openwebmath --input $SAMPLE/openwebmath.jsonl --out $OUT/web

say "3/7 text to tokenizer: $OUT/tokenizer"
python data_prep/train_tokenizer.py --input $OUT/dataset/train.jsonl $OUT/web/train.jsonl --vocab-size 4096 --out $OUT/tokenizer

say "4/7 text to tokens: $OUT/dataset/tokens and $OUT/web/tokens"
python data_prep/pack_tokens.py --dataset $OUT/dataset --tokenizer $OUT/tokenizer
python data_prep/pack_tokens.py --dataset $OUT/web --tokenizer $OUT/tokenizer

RUN=(--config recipes/demo/config.json --mixture recipes/demo/mixture.json
    --dataset $OUT/dataset --tokenizer $OUT/tokenizer --out $OUT
    --steps 120 --warmup-steps 10 --lr 2e-3 --seq-len 256 --micro-batch 4 --accumulation 2
    --log-every 10 --eval-every 30 --eval-sequences 64 --save-every 20 --keep 2 --wandb off)

say "5/7 tokens to model: $OUT/hf; first what the run would cost on GPUs"
python train.py --plan "${RUN[@]}"
deepspeed --num_gpus 2 train.py "${RUN[@]}"

say "6/7 bits per byte on the papers that training never saw"
python evaluate.py perplexity --model $OUT/hf --dataset $OUT/dataset

say "7/7 a few lines from the model"
python generate.py --model $OUT/hf --prompt "Let \$p\$ be a prime number. Then" --max-new-tokens 60 --seed 0

say "done: text in $OUT/dataset, its account in $OUT/report.html, tokenizer in $OUT/tokenizer, model in $OUT/hf, metrics in $OUT/metrics.jsonl"
