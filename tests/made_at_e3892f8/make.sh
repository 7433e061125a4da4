#!/bin/sh
# Make the fixtures of this folder with the code of commit e3892f8:
#
#   git clone REPOSITORY /tmp/checkout && cd /tmp/checkout && git checkout e3892f8
#   PYTHON=.venv/bin/python PYTHON_ADDONS=.venv-addons/bin/python \
#       sh /path/to/made_at_e3892f8/make.sh OUTPUT_FOLDER
#
# Run it from the root of the checkout, on a machine without a GPU. The two interpreters have the
# packages of that commit's requirements.lock and requirements-addons.lock. OUTPUT_FOLDER must not
# exist. It takes a few minutes. Do not run it with later code: older code has to make these files.
set -eu
: "${PYTHON:?set PYTHON to the interpreter with TensorFlow 2.21}"
: "${PYTHON_ADDONS:?set PYTHON_ADDONS to the interpreter with TensorFlow 2.15}"
parts=$(cd "$(dirname "$0")" && pwd)
out=${1:?name a new output folder}
mkdir "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
root=$(pwd)
export PYTHONPATH="$root:$root/tests" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=""

# 1. A data set: 16 train photos (two of 18 are rejected) and 12 validation photos of 3 classes.
#    With 16 photos, a power of two, the mean image has few digits and compresses well.
"$PYTHON" -m data_prep.rehearsal --output_dir="$work/release" \
    --classes=3 --images_per_class=6 --validation_per_class=4
"$PYTHON" -m data_prep.prepare --source=ilsvrc2012 --input_dir="$work/release" \
    --output_dir="$work/data" --train_shards=2 --validation_shards=1 --index

# 2. Two runs, each once whole and once killed in its second epoch, after step 2 of 4.
network="--profile=paper --kernel_init=he_normal --bias_init=0 --pixel_scale=0.0167"
settings="$network --data_dir=$work/data --batch_size=4 --epochs=2 --precision=float32"
settings="$settings --checkpoint_seconds=0 --keep=1"

# Train on $2 CPU devices, in the workdirs $1_whole and $1, with the remaining flags. --keep=1 keeps
# the last checkpoint and that of the best epoch.
train_twice() {
    name=$1 devices=$2
    shift 2
    # shellcheck disable=SC2086
    "$PYTHON" "$parts/on_cpu_devices.py" "$devices" keras_alexnet.train \
        --workdir="$work/${name}_whole" $settings "$@"
    # shellcheck disable=SC2086
    "$PYTHON" "$parts/python_parts.py" killed_run "$devices" \
        --workdir="$work/$name" $settings "$@" || [ $? = 137 ]
    rm -rf "$work/$name/tensorboard"
}

train_twice sgd 1 --width=0.03125 --learning_rate=0.005 --seed=3
train_twice columns 2 --width=0.015625 --column_parallel --optimizer=adam --learning_rate=0.001 \
    --ema=0.9 --schedule=cosine --warmup_epochs=0.5 --weight_decay=0 --label_smoothing=0.1

# 3. Weights converted from Caffe's format, and three whole models in Keras' formats.
mkdir "$work/models"
"$PYTHON" "$parts/python_parts.py" caffemodel "$work"
"$PYTHON" -m keras_alexnet.convert --weights="$work/net.caffemodel" --profile=caffe \
    --width=0.015625 --output="$work/models/caffe.weights.h5"
"$PYTHON" "$parts/python_parts.py" models "$work"
"$PYTHON_ADDONS" "$parts/python_parts.py" keras2_model "$work"

# 4. An export of the killed run, of its best epoch, the first.
"$PYTHON" -m keras_alexnet.export --workdir="$work/sgd" --data_dir="$work/data" \
    --export_dir="$work/export/shapes"

# 5. What later code has to find in them.
"$PYTHON" "$parts/python_parts.py" expected "$work"
cp "$work/expected.json" "$work/expected.npz" "$out"

mkdir "$work/workdir"
mv "$work/sgd" "$work/columns" "$work/workdir"
for name in data workdir models export; do
    tar --create --directory="$work" --sort=name --mtime=2026-01-01 --owner=0 --group=0 \
        --numeric-owner "$name" | xz -9e > "$out/$name.tar.xz"
done
rm -rf "$work"
ls -l "$out"
