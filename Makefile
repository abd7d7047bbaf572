# `make demo` and `make test` need Python 3.11 to 3.13 and make; each sets up .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
DIGITS := --data digits --size 16 --ema-half-life 5000 --log-every 100

.PHONY: demo test lint format clean

demo: .venv/ready
	$(BIN)/python experiments/vae.py $(DIGITS) --conditional --steps 600 --workdir runs/demo/vae
	$(BIN)/python experiments/dcgan.py $(DIGITS) --conditional --steps 1500 --workdir runs/demo/dcgan
	$(BIN)/python experiments/flow.py $(DIGITS) --guidance 3 --steps 600 --workdir runs/demo/flow
	$(BIN)/jimgen report runs/demo/vae runs/demo/dcgan runs/demo/flow --out runs/demo/report.html
	@echo
	@echo "Open runs/demo/report.html in a browser: samples, curves and numbers of the three models."
	@echo "Then try $(BIN)/jimgen interpolate runs/demo/vae, $(BIN)/jimgen evaluate runs/demo/dcgan, or your own"
	@echo "pictures: $(BIN)/python experiments/dcgan.py --data folder:PICTURES --size 32"

test: .venv/ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,metrics,faces,medical,codec]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
