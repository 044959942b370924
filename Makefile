# `make story` films a story, `make desk` opens the director's desk, `make lab` the notebooks, `make test` runs everything that can fail.
PYTHON ?= python3
STORY ?= data_samples/stories/long_way_home.json
export OMP_NUM_THREADS ?= 1

# Jupyter wants to be asked before root runs it
ROOT_OK := $(if $(filter 0,$(shell id -u)),--allow-root)
# A page that is closed leaves its kernel behind (Voila cannot be told): half a gigabyte, ended after ten minutes
CULL := --MappingKernelManager.cull_idle_timeout=600 --MappingKernelManager.cull_interval=60

.PHONY: story test test-oldest test-newest lab desk export clean

story: .venv/ready
	.venv/bin/shotstream story $(STORY) -o out/story.mp4
	@echo "Direct a film of your own: make desk    Learn how it works: make lab"

test: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/pyright --pythonpath .venv/bin/python
	.venv/bin/python -m pytest -n 2 --dist worksteal

# The oldest Python with the lowest versions that settings.ini allows, and the newest with the newest
OLDEST ?= python3.10
NEWEST ?= python3.13
test-oldest:
	bash tools/test_bounds.sh oldest $(OLDEST) $(TESTS)
test-newest:
	bash tools/test_bounds.sh newest $(NEWEST) $(TESTS)

lab: .venv/ready
	.venv/bin/jupyter lab $(ROOT_OK) nbs/00_tour.ipynb

desk: .venv/ready
	.venv/bin/voila $(CULL) nbs/backstage/app/studio.ipynb

export: .venv/ready
	.venv/bin/nbdev-export && .venv/bin/nbdev-clean

.venv/ready: settings.ini setup.py pyproject.toml constraints.txt tools/install.sh
	bash tools/install.sh $(PYTHON)
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest out build dist *.egg-info
