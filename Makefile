# Short names for the commands of README.md and CONTRIBUTING.md.
PYTHON ?= .venv/bin/python

.PHONY: install test slow lint docs bench bench-gpu ci

install:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'
test:
	$(PYTHON) -m pytest
slow:
	$(PYTHON) -m pytest -m slow
lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy
docs:
	$(PYTHON) tests/test_architecture_page.py
bench:
	$(PYTHON) -m jaxseg.bench --peers
bench-gpu:
	$(PYTHON) -m jaxseg.bench --gpu
ci:
	.ci/run
