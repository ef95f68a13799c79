# Short names for the commands of README.md and CONTRIBUTING.md.
PYTHON ?= .venv/bin/python

.PHONY: install test slow full faults newest lint docs tutorials notebooks bench bench-gpu nnunet ci

install:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'
test:
	$(PYTHON) -m pytest
slow:
	$(PYTHON) -m pytest -m slow
full:  # everything, the long set too, with every program compiled as users compile it
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTHON) -m pytest -m ''
faults:  # every row of docs/faults.md, with the long counts, and its outcome into that page
	JAXSEG_FAULTS=long $(PYTHON) -m pytest -m fault -n 2 --dist loadfile --fault-table=docs/faults.md
newest:  # the default tests under Python 3.12 with the newest jax that pyproject.toml allows
	python3.12 -m venv .venv-newest && .venv-newest/bin/pip install -q --upgrade -e '.[test]'
	.venv-newest/bin/python -m pytest
lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy
docs:  # the pages that are written from the code, then the site, in build/site
	$(PYTHON) tests/test_architecture_page.py && $(PYTHON) tests/test_reference_pages.py
	$(PYTHON) -m pip install -q -e '.[docs]' && $(PYTHON) -m mkdocs build --strict
tutorials:  # those of docs/ as they stand, on real images that pip downloads; about half an hour on two cores
	$(PYTHON) -m pytest -m tutorial
notebooks:  # written from the pages, then executed in build/notebooks
	$(PYTHON) tests/test_notebooks.py && $(PYTHON) -m pip install -q nbconvert ipykernel
	mkdir -p build/notebooks && cp notebooks/*.ipynb build/notebooks
	$(PYTHON) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=7200 build/notebooks/*.ipynb
bench:
	$(PYTHON) -m jaxseg.bench --peers
bench-gpu:
	$(PYTHON) -m jaxseg.bench --gpu
nnunet:  # live beside nnU-Net: what it predicts for tests/importing, anew, and models that it trains here; brings 6 GB of CUDA
	python3 -m venv .venv-nnunet && .venv-nnunet/bin/pip install -q nnunetv2==2.8.1
	python3 -m venv .venv-jax && .venv-jax/bin/pip install -q jax
	.venv-nnunet/bin/python -m tests.importing.live
	JAXSEG_NNUNET_PYTHON=$(CURDIR)/.venv-nnunet/bin/python JAXSEG_BARE_PYTHON=$(CURDIR)/.venv-jax/bin/python \
	  $(PYTHON) -m pytest tests/importing
ci:
	.ci/run
