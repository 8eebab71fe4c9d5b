#!/usr/bin/env bash
# KodaLite-1.3B: grouped-query attention (32 query, 8 key-value heads of 64), 1,024 tokens of context, 50,257 pieces, untied:
#   1,269,209,088 parameters (2 x 50,257 x 2,048 + 24 layers x 44,306,432 + 2,048). Ends as GGUF (8 bits) and MLX (4 bits).
# Promise: 2 x A100 80 GB; 25.4 billion tokens (20 a parameter; its card has 1.64 billion, and says that these are too few),
#   344 GPU-hours = 7.2 days at 50% of the cards' peak (python train.py --plan); disk: 102 GB of tokens, 6 checkpoints of 17.8 GB, and
#   your sources beside their text. How long fine-tuning takes was not measured.
# Number to see: bits per byte in $OUT/val.json, which nobody has published; eight benchmarks in benchmarks.json (its card: 34.5% on average).
# When it last came true: the full run never, not by us. `run.sh --tiny` (the same stages on a CPU with the sample and
#   config-tiny.json; 2 minutes of CPU time, 30 MB): 2026-11-21, 2.42 bits per byte, 3.15 after 30 epochs of chat.
#   METADATA=arxiv/metadata.jsonl SOURCES=arxiv/tars recipes/kodalite-1.3b/run.sh
# Killed at any moment, the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/road.sh

NAME=kodalite-1.3b LICENCE=mit
OUT=${OUT:-runs/$NAME}
METADATA=${METADATA:-arxiv/metadata.jsonl}
SOURCES=("${SOURCES:-arxiv/tars}")
PREPARE=()
PIECES=50257
CONFIG=recipes/$NAME/config.json DS_CONFIG=recipes/$NAME/ds_config.json
LAUNCH=()
# learning rate, betas and schedule are train.py's; 2 GPUs x 24 x 1,024 x 32 = 1,572,864 tokens per step, as KiteFish-A1
TRAIN=(--seq-len 1024 --micro-batch 24 --global-batch 1536 --tokens 25.4e9 --eval-sequences 1536 --checkpoint-layers auto)
[ -z "${MIXTURE:-}" ] || TRAIN+=(--mixture "$MIXTURE")
# its card: Dolly and OASST1 by LoRA; rank 16 and alpha 32; 2 GPUs x 8 rows x 1,024 tokens x 4 = 65,536 tokens per step
POST_LAUNCH=(deepspeed)
BENCHMARK_DATA=${BENCHMARK_DATA:-hub}
SFT=(--mixture recipes/$NAME/mixture.json --subject chat --lora --epochs 2 --lr 2e-4 --micro-batch 8 --accumulation 4)
# with PREFERENCES="folders of pairs" (data_prep/external.py ultrafeedback) it learns these, too
DPO=(--lora --lr 5e-6 --micro-batch 4 --accumulation 8)

if [ "${1:-}" = --tiny ]; then
    OUT=${OUT}-tiny CONFIG=recipes/$NAME/config-tiny.json PIECES=3001
    TRAIN=(--steps 150 --warmup-steps 10 --lr 4e-3 --seq-len 256 --micro-batch 8 --accumulation 2 --log-every 10 --eval-every 150 --save-every 50 --keep 1)
    SFT=(--data recipes/chat-sample --lora --epochs 30 --lr 1e-2 --micro-batch 4 --accumulation 1)
    tiny_road
fi

prepare
tokenizer $PIECES
pack
train
evaluate
write
posttrain sft sft "${SFT[@]}"
[ -z "${PREFERENCES:-}" ] || posttrain dpo dpo --data $PREFERENCES "${DPO[@]}"
evaluate
benchmarks hellaswag arc_easy arc_challenge winogrande piqa boolq openbookqa lambada_openai
chat
export_gguf q8_0
export_mlx 4
export_hub
say "done: everything is in $OUT"
