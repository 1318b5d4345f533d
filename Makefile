# make book    builds the book in _build/html          make test    checks everything
# Needs Python 3.11 or newer and make. Everything else goes into the folder .venv.
#
# PYTHON=python3.11   another Python           CONSTRAINTS=   newest versions, not the tested ones
# A blank is fine in the names of folders, VENV too.
#
# On Linux without a GPU, PyTorch's CPU build is 5 GB smaller:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make book

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
JOBS ?= 2

BIN := "$(VENV)/bin"
# A blank in a folder's name: quoted where a shell reads it, escaped where make does.
SPACE := $(subst ,, )
READY := $(subst $(SPACE),\ ,$(VENV))/.installed
NOTEBOOKS = $(wildcard book/*.ipynb)
# What `make test` runs after the library: the notebooks, then the pages.
LATER = tests/test_alone.py tests/test_book.py tests/test_browser.py
LIBRARY = $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(patsubst %,--ignore=%,$(LATER))
FAILED = _build/failed.txt
STUDIES = $(wildcard book/studies/[!_]*.py)

unexport MPLBACKEND # notebooks draw inline, whatever the shell prefers
# The book's networks are tiny: one thread each is as fast as two, and kernels side by side do not fight.
export OMP_NUM_THREADS ?= 1

.PHONY: help book test test-elsewhere alone elsewhere colab lowest bench notebooks studies lint format clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environment, renewed when the declared or the pinned dependencies change.
$(READY): pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11 or name yours, make book PYTHON=..." >&2; exit 1; }
	@$(PYTHON) tools/preflight.py "$(VENV)"
	@echo "== environment in $(VENV) (the first time: some minutes, several GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv "$(VENV)"
	@$(BIN)/python -m pip install -q -e '.[book,notebook,media,test]' $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) || { \
	  echo "error: pip failed, see above. No network: run make again later. No space left: free some, or set TMPDIR." >&2; \
	  echo "A version not found for your Python or system: make book CONSTRAINTS= takes the newest that fit." >&2; exit 1; }
	@touch "$@"

book: $(READY) ## run the notebooks, build the pages in _build/html, check them
	@echo "== book"
	@$(BIN)/python tools/fresh_cache.py
	@$(BIN)/jupyter-book build . -W --keep-going -q || { rm -rf _build/.doctrees; exit 1; } # so that it warns again
	@$(BIN)/python tools/check_book.py

test: $(READY) ## lint, library, book, notebooks, pages; what failed is listed at the end
	@mkdir -p _build && : > $(FAILED)
	@$(MAKE) --no-print-directory lint || echo "  style" >> $(FAILED)
	@echo "== library and notebooks at rest"
	@$(LIBRARY) || echo "  library and notebooks at rest" >> $(FAILED)
	@$(MAKE) --no-print-directory -k -j 2 book alone || echo "  building the book, or a notebook alone" >> $(FAILED)
	@$(BIN)/python tools/browser.py || echo "  finding a browser" >> $(FAILED)
	@echo "== the pages"
	@BOOK_BUILT=1 $(BIN)/python -m pytest -q -n $(JOBS) tests/test_book.py tests/test_browser.py || echo "  the pages" >> $(FAILED)
	@if [ -s $(FAILED) ]; then echo "== failed, see above:"; cat $(FAILED); exit 1; else echo "== all passed"; fi

test-elsewhere: $(READY) ## the tests that compute, as other processors round (PART=word: three minutes of it)
	@$(BIN)/python tools/elsewhere.py --jobs $(JOBS) $(if $(PART),--part $(PART))

elsewhere: ## library and notebooks with another Python, PYTHON=python3.13
	@$(MAKE) --no-print-directory VENV=.venv/$(notdir $(PYTHON)) in-environment

colab: ## library and notebooks with the versions of Colab, PYTHON=python3.13
	@$(MAKE) --no-print-directory VENV=.venv/colab CONSTRAINTS=constraints-colab.txt in-environment

lowest: ## library and notebooks with the lowest versions that pyproject.toml allows
	@mkdir -p .venv/lowest && $(PYTHON) tools/lowest.py .venv/lowest/constraints.txt
	@$(MAKE) --no-print-directory VENV=.venv/lowest CONSTRAINTS=.venv/lowest/constraints.txt in-environment

# What the three above do in an environment of their own, inside .venv. With PART three minutes of it.
.PHONY: in-environment
in-environment: $(READY)
	@$(BIN)/python --version && $(BIN)/python -m pip list 2>/dev/null | grep -E '^(torch|numpy|ipython|ipywidgets) '
	@failed=0; $(if $(PART),$(BIN)/python tools/elsewhere.py --jobs $(JOBS) --part $(PART),$(LIBRARY)) || failed=1; \
	$(if $(PART),,$(BIN)/python -m pytest -q tests/test_alone.py || failed=1;) exit $$failed

alone: $(READY) ## run every notebook in an empty folder and a fresh environment
	@echo "== every notebook alone: every cell gives its stored output"
	@$(BIN)/python -m pytest -q tests/test_alone.py

bench: $(READY) ## measure speed and memory as ratios, into tests/bench.json
	@$(BIN)/python tests/bench.py

notebooks: $(READY) ## run every notebook in place: what it stores is what it gave
	@set -e; for notebook in $(NOTEBOOKS); do echo "== $$notebook"; \
	  $(BIN)/jupyter-nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.timeout=600 "$$notebook"; \
	  $(BIN)/python tools/strip_notebooks.py "$$notebook"; done

studies: $(READY) ## repeat every recorded experiment (slow)
	@set -e; for study in $(STUDIES); do echo "== $$study"; $(BIN)/python "$$study"; done

lint: $(READY) ## check the style
	@echo "== style"
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check .

format: $(READY) ## put the style in order
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

clean: ## remove what was built; the environment stays
	@rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache
