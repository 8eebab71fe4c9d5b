# The stages that the recipes share, from sources to an exported model. A recipe's run.sh sets the variables and calls them by name.
#
# Needs: OUT (where everything lands), METADATA and SOURCES (what prepare reads), PREPARE, TOKENIZER_ROWS, CONFIG, DS_CONFIG, LAUNCH,
# TRAIN (flags, as arrays); for what comes after POST_LAUNCH, and BENCHMARK_DATA (a folder of local files, or "hub"). MODEL is the newest
# model of the road. Each stage goes on where it was killed, or says that it is done.

say() { printf '\n== %s\n' "$*"; }

# What --tiny changes: the sample instead of arXiv, one process on a CPU. Everything else is the recipe's own.
tiny_road() {
    METADATA=dataset_train_val/sample/metadata.jsonl
    SOURCES=(dataset_train_val/sample/sources)
    PREPARE=(--val-frac 0.1)
    LAUNCH=(--num_gpus 1 --master_port "${MASTER_PORT:-29500}")
    POST_LAUNCH=(python)
    [ "${BENCHMARK_DATA:-hub}" != hub ] || BENCHMARK_DATA=
    export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=disabled
}

prepare() {
    say "sources to text: $OUT/dataset"
    python data_prep/prepare_dataset.py --metadata "$METADATA" --sources "${SOURCES[@]}" --out "$OUT/dataset" "${PREPARE[@]}"
}

tokenizer() { # NUM_PIECES [ROWS]: pieces of the tokenizer, rows of the embedding
    say "text to tokenizer: $OUT/tokenizer"
    [ -f "$OUT/tokenizer/tokenizer.json" ] ||
        python data_prep/train_tokenizer.py --input "$OUT/dataset/train.jsonl" --vocab-size "$1" --pad-to "${2:-$1}" --out "$OUT/tokenizer"
}

pack() {
    say "text to tokens: $OUT/dataset/tokens"
    python data_prep/pack_tokens.py --dataset "$OUT/dataset" --tokenizer "$OUT/tokenizer"
}

train() {
    say "tokens to model: $OUT/hf"
    deepspeed "${LAUNCH[@]}" train.py --config "$CONFIG" --deepspeed-config "$DS_CONFIG" \
        --dataset "$OUT/dataset" --tokenizer "$OUT/tokenizer" --out "$OUT" "${TRAIN[@]}"
    MODEL=$OUT/hf
}

posttrain() { # METHOD NAME FLAGS...: sft, dpo or grpo; the stage's folder in OUT; its data and settings
    say "$1: $OUT/$2/hf"
    if python -c "import trl, peft, math_verify" 2> /dev/null; then
        "${POST_LAUNCH[@]}" posttrain.py "$1" --model "$MODEL" --out "$OUT/$2" --deepspeed-config "$DS_CONFIG" "${@:3}"
        MODEL=$OUT/$2/hf
    else
        echo "left out: the packages trl, peft and math-verify are not installed (pip install trl peft math-verify)"
    fi
}

benchmarks() { # NAMES...; LIMIT: so many questions of each
    say "benchmarks beside the published figures: ${MODEL%hf}benchmarks.json"
    if [ -z "${BENCHMARK_DATA:-}" ]; then
        echo "left out: give BENCHMARK_DATA, hub or a folder of local files"
    elif python -c "import lm_eval, math_verify" 2> /dev/null; then
        local from=() names=() name
        [ "$BENCHMARK_DATA" = hub ] || from=(--data "$BENCHMARK_DATA")
        for name in "$@"; do # HellaSwag is read from the hub only
            [ "$name" = hellaswag ] && [ "$BENCHMARK_DATA" != hub ] || names+=("$name")
        done
        python evaluate.py benchmarks --model "$MODEL" --out "${MODEL%hf}benchmarks.json" "${from[@]}" --tasks "${names[@]}" ${LIMIT:+--limit "$LIMIT"}
    else
        echo "left out: the packages lm_eval and math-verify are not installed (pip install lm_eval math-verify)"
    fi
}

evaluate() {
    say "bits per byte on papers that training never saw: ${MODEL%hf}val.json"
    python evaluate.py perplexity --model "$MODEL" --dataset "$OUT/dataset" --out "${MODEL%hf}val.json"
}

write() {
    say "a few lines from the model"
    python generate.py --model "$MODEL" --prompt "Let \$p\$ be a prime number. Then" --max-new-tokens 60 --seed 0
}

chat() {
    say "a question to the model"
    python generate.py --model "$MODEL" --chat --prompt "What is a prime number?" --max-new-tokens 60 --temperature 0
}

# Exports need the packages of requirements-extra.txt; what is not installed is said and left out.
export_gguf() { # TYPE
    say "llama.cpp: $OUT/$NAME-$1.gguf"
    if python -c "import gguf, accelerate" 2> /dev/null; then
        python export.py gguf --model "$MODEL" --out "$OUT/$NAME-$1.gguf" --type "$1" --name "$NAME" --dataset "$OUT/dataset" --num-slices 10000
    else
        echo "left out: the packages gguf and accelerate are not installed (pip install gguf accelerate)"
    fi
}

export_mlx() { # BITS
    say "MLX: $OUT/$NAME-mlx-$1bit"
    if [ -d "$OUT/$NAME-mlx-$1bit" ]; then
        echo "done before"
    elif python -c "import mlx_lm" 2> /dev/null; then
        python export.py mlx --model "$MODEL" --out "$OUT/$NAME-mlx-$1bit" --bits "$1" --dataset "$OUT/dataset" --num-slices 10000
    else
        echo "left out: the packages mlx and mlx-lm are not installed (pip install 'mlx[cpu]' mlx-lm)"
    fi
}

export_hub() {
    say "a folder to publish: $OUT/$NAME"
    if [ -d "$OUT/$NAME" ]; then
        echo "done before"
    elif python -c "import matplotlib" 2> /dev/null; then
        python export.py hub --model "$MODEL" --out "$OUT/$NAME" --dataset "$OUT/dataset" --metrics "$OUT/metrics.jsonl" \
            --evaluation "${MODEL%hf}val.json" --licence "$LICENCE"
    else
        echo "left out: the package matplotlib is not installed (pip install matplotlib)"
    fi
}
