#!/bin/bash
# A training on one node of a Slurm cluster, queued again until it is finished. In the project's folder:
#     sbatch deployments/slurm.sh CONFIG.yaml [options of flows.adversarial_training]
#SBATCH --job-name=layouts
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

source .venv/bin/activate
python -m flows.adversarial_training --wait --set training.processes=auto "$@" &
training=$!
# Slurm sends the signal five minutes before the time limit; the training ends with its state kept.
trap 'kill -TERM "$training"' TERM USR1
# A signal ends `wait`, not the training.
while kill -0 "$training" 2> /dev/null; do
    wait "$training"
    status=$?
done
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
