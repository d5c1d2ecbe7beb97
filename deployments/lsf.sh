#!/bin/bash
# A training on one host of an LSF cluster, queued again until it is finished. In the project's folder:
#     CONFIG=CONFIG.yaml bsub < deployments/lsf.sh
#BSUB -J layouts
#BSUB -n 32
#BSUB -R "span[hosts=1]"
#BSUB -gpu "num=4"
#BSUB -W 24:00
#BSUB -wt 5
#BSUB -wa TERM
#BSUB -r
#BSUB -Q "143"

source .venv/bin/activate
# LSF sends TERM five minutes before the time limit. The training ends with its state kept and with exit status 143, for
# which `-Q` queues the job again.
exec python -m flows.adversarial_training "$CONFIG" --wait --set training.processes=auto
