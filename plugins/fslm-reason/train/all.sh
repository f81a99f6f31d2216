#!/bin/sh
# All adapters, in order: stages, then controls. What is there already is passed over, what was stopped is gone on with.
#     sh all.sh DIR
set -e
cd "$(dirname "$0")"
[ -e rows/answer.train.jsonl ] || python prepare.py --data "$1"
for name in answer facts reasoning topic; do
    [ -e "../src/fslm_reason/$name/adapter/adapter_model.safetensors" ] || python train.py "$name"
done
for name in direct whole; do
    [ -e "control/$name/adapter/adapter_model.safetensors" ] || python train.py "control/$name"
done
