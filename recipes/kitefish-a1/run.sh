#!/usr/bin/env bash
# KiteFish-A1: arXiv's LaTeX to a model of 1,633,781,760 parameters (2 x 102,400 x 2,048 + 24 layers x 50,597,888 + 2,048).
# Promise: 2 x A100 80 GB; 836 GPU-hours = 17.4 days at 50% of the cards' peak (python train.py --plan); disk: 209 GB of tokens
#   (52.18e9 x 4 bytes), 6 checkpoints of 22.9 GB, and your sources beside their text.
# Number to see: the paper reports a validation perplexity of 4.2, of another tokenizer; ours is bits per byte, in $OUT/val.json.
# When it last came true: the full run never, not by us. `run.sh --tiny` (the same stages on a CPU with the sample and
#   config-tiny.json; 2 minutes of CPU time, 30 MB): 2026-11-21, 2.44 bits per byte.
#   METADATA=arxiv/metadata.jsonl SOURCES=arxiv/tars recipes/kitefish-a1/run.sh
# With OpenWebMath packed in dataset_train_val/openwebmath, Table 1 of the paper: MIXTURE=recipes/kitefish-a1/mixture.json before it.
# Killed at any moment, the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/road.sh

NAME=kitefish-a1 LICENCE=mit
OUT=${OUT:-runs/$NAME}
METADATA=${METADATA:-arxiv/metadata.jsonl}
SOURCES=("${SOURCES:-arxiv/tars}")
PREPARE=()
PIECES=102400
CONFIG=recipes/$NAME/config.json DS_CONFIG=recipes/$NAME/ds_config.json
LAUNCH=()
TRAIN=(--checkpoint-layers auto) # all else is train.py's default, which is this run's
[ -z "${MIXTURE:-}" ] || TRAIN+=(--mixture "$MIXTURE")

if [ "${1:-}" = --tiny ]; then
    OUT=${OUT}-tiny CONFIG=recipes/$NAME/config-tiny.json PIECES=4096
    TRAIN=(--steps 150 --warmup-steps 10 --lr 4e-3 --seq-len 256 --micro-batch 8 --accumulation 2 --log-every 10 --eval-every 150 --save-every 50 --keep 1)
    tiny_road
fi

prepare
tokenizer $PIECES
pack
train
evaluate
write
export_gguf bf16
export_hub
say "done: everything is in $OUT"
