# Commands of the project. `make demo` and `make test` need Python 3.11 or newer, git and make, nothing else.
PYTHON ?= python3
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: install demo base evidence-gpu demo-s3 deploy test bench lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	$(RUN) -m core.models.lpips_trunk
	touch $@

demo: install
	$(RUN) -m flows.adversarial_training configs/demo.yaml

# What the demo starts from, made again: about half an hour on two CPU cores.
base: install
	$(RUN) -m flows.prerequisites configs/base.yaml --set artifacts.root=artifacts/base
	$(RUN) -m tasks.export_base configs/base.yaml --output_dir configs/base --set artifacts.root=artifacts/base

# The comparison of docs/evidence at 512x512 on a GPU. It goes on where it was stopped.
# MANIFEST=/data/manifest.csv names the layouts; SETTINGS='--set key=value' changes what else there is.
evidence-gpu: install
	$(RUN) -m flows.prerequisites configs/evidence_gpu.yaml $(if $(MANIFEST),--set dataset.manifest=$(MANIFEST)) $(SETTINGS)
	$(RUN) -m tasks.compare_ablations configs/evidence_gpu.yaml $(if $(MANIFEST),--set dataset.manifest=$(MANIFEST)) $(SETTINGS)

# The demo with every artefact in a bucket of a Ceph gateway on this machine, whose data is in .radosgw.
demo-s3: install
	$(RUN) -m tests.radosgw .radosgw --bucket layouts -- \
	    $(RUN) -m flows.adversarial_training configs/demo.yaml --set artifacts.root=s3://layouts/artifacts

# Work pool, concurrency limit, deployments and automations on the Prefect server; may be repeated.
deploy: install
	$(RUN) -m deployments.deploy

# A file's tests in one process, three files at a time, the longest files first (tests/conftest.py).
test: install
	$(RUN) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Speed beside stock training loops, and how time grows with work; needs an idle machine, takes about eleven minutes.
bench: install
	$(RUN) -m tests.benchmarks.speed
	$(RUN) -m tests.benchmarks.latents
	$(RUN) -m tests.benchmarks.growth

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

# Removes what `make install` installed. Artefacts and the bucket of `make demo-s3` stay.
clean:
	rm -rf $(VENV)
