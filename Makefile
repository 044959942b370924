# `make story` films a story, `make desk` opens the director's desk, `make lab` the notebooks, `make test` runs everything that can fail.
PYTHON ?= python3
STORY ?= data_samples/stories/long_way_home.json
export OMP_NUM_THREADS ?= 1

.PHONY: story test lab desk export clean

story: .venv/ready
	.venv/bin/shotstream story $(STORY) -o out/story.mp4
	@echo "Direct a film of your own: make desk    Learn how it works: make lab"

test: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/python -m pytest -n 2 --dist worksteal

lab: .venv/ready
	.venv/bin/jupyter lab nbs/00_tour.ipynb

desk: .venv/ready
	.venv/bin/voila nbs/backstage/app/studio.ipynb

export: .venv/ready
	.venv/bin/nbdev-export && .venv/bin/nbdev-clean

.venv/ready: settings.ini setup.py pyproject.toml constraints.txt tools/install.sh
	bash tools/install.sh $(PYTHON)
	touch $@

clean:
	rm -rf .venv out build dist *.egg-info
