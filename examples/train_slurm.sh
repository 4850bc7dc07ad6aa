#!/usr/bin/env bash
# Train on two nodes with four GPUs each, one process per GPU:
#     DATA=/shared/images sbatch examples/train_slurm.sh
# Submitted again, or requeued, it resumes after the last completed epoch.
#SBATCH --job-name=eanet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" # the repository
export KERAS_BACKEND=jax

# train.py finds coordinator, number and id of the processes in SLURM's variables, and uses the GPU of a task's number: so a
# task must see all GPUs of its node (--gres, not --gpus-per-task). The processes end together. srun does not take over
# --cpus-per-task by itself.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python train.py --distribute --data "${DATA:?set DATA to the data set}" --output "${OUTPUT:-runs/eanet}"
