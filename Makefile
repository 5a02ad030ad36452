# Two commands: `make lab` to read the course, `make test` to check it. `make` lists the rest.
# For GNU make 3.81 or newer with a POSIX shell; README.md says what to type without them.
#
#   PYTHON=/path/to/python   use an environment that you made; nothing is installed into it
#   ARGS=…                   more arguments for JupyterLab (lab), pytest (test, test-long) or
#                            the notebooks to re-execute (refresh)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test test-long verify refresh gallery bench clean environment model

VENV  := .venv
STAMP := $(VENV)/.installed

ifdef PYTHON
PY := $(PYTHON)
else
PY := $(VENV)/bin/python
endif

help:
	@echo 'make lab        open the course in JupyterLab (the first time: installs it, 5 to 10 minutes)'
	@echo 'make test       lint, types, tests, and every notebook run and compared'
	@echo 'make test-long  the tests that take minutes'
	@echo 'make verify     compare all logits in all cache states with Hugging Face, bit by bit'
	@echo 'make refresh    re-execute the notebooks and write them in their normal form'
	@echo 'make gallery    draw one figure of each kind into build/gallery, to look at'
	@echo 'make bench      time the executor beside Hugging Face, as ratios'
	@echo 'make clean      remove .venv, build and the caches of tools; the prepared model stays'

lab: model
	"$(PY)" -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

test: model
	"$(PY)" -m ruff check .
	"$(PY)" -m mypy
	"$(PY)" -m pytest --nbval $(ARGS)

test-long: model
	"$(PY)" -m pytest --nbval -m long $(ARGS)

verify: model
	"$(PY)" -m radix_lib --exact $(ARGS)

refresh: model
	"$(PY)" tests/tools/refresh.py $(ARGS)

gallery: environment
	"$(PY)" tests/tools/gallery.py $(ARGS)

bench: model
	"$(PY)" tests/tools/benchmarks/bench_executor.py

clean:
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Done already, this takes a moment and prints nothing of note.
model: environment
	@"$(PY)" -m radix_lib.model_loader

# radix_lib must be installed from this very folder. (-P: what is installed counts, not what lies here.)
HERE = from importlib.util import find_spec; from os.path import samefile; samefile(find_spec("radix_lib").origin, "radix_lib/__init__.py") or exit(1)

ifdef PYTHON

HAS_ALL = import re; from importlib.metadata import requires, version; [version(re.match(r"[\w.-]+", p)[0]) for p in requires("radix_lib")]

environment:
	@"$(PY)" --version >/dev/null 2>&1 || { echo 'PYTHON=$(PYTHON) is no Python that runs here.'; exit 1; }
	@"$(PY)" -P -c '$(HERE); $(HAS_ALL)' >/dev/null 2>&1 || { \
	  echo 'PYTHON=$(PYTHON) ($(shell "$(PYTHON)" --version 2>&1)) lacks what the course needs:'; \
	  echo 'Python 3.11 to 3.14 and the packages of pyproject.toml. If it is an environment of your own, run in this folder'; \
	  echo; \
	  echo '    "$(PYTHON)" -m pip install -e ".[dev]"'; \
	  echo; \
	  echo 'or leave PYTHON away, and make prepares an environment of its own in $(VENV).'; \
	  exit 1; }

else

environment: $(STAMP)
	@"$(PY)" -P -c '$(HERE)' >/dev/null 2>&1 || { \
	  echo 'This folder was moved, or the Python of $(VENV) is gone: run "make clean", then this again.'; \
	  exit 1; }

FITS = import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

# The stamp is written last, so an installation cut short is taken up again, and a changed
# pyproject.toml is installed. `python3.12` on the path may be a mere pointer to nothing: it must run
# to count. 3.11 comes first, since the committed outputs were made with it.
$(STAMP): pyproject.toml
	@rm -f '$@'
	@"$(PY)" -c '$(FITS)' >/dev/null 2>&1 && "$(PY)" -m pip --version >/dev/null 2>&1 || { \
	  for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	    if "$$python" -c '$(FITS)' >/dev/null 2>&1; then \
	      echo "Making $(VENV) with `"$$python" --version`"; \
	      exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo 'The course needs Python 3.11 to 3.14, with its modules venv and ensurepip. Found:'; \
	  found=; \
	  for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	    "$$python" -c '$(TELL)' "$$python" 2>/dev/null && found=yes; \
	  done; \
	  test "$$found" || echo '    no Python at all'; \
	  echo 'Install one (python.org, your package manager, conda), or name one: make lab PYTHON=/path/to/python'; \
	  exit 1; }
	"$(PY)" -m pip install --disable-pip-version-check -e '.[dev]'
	@touch '$@'

TELL = import sys; from importlib import util; print("   ", sys.argv[1], "is", sys.version.split()[0] + ("" if util.find_spec("ensurepip") else ", without ensurepip (on Debian and Ubuntu: apt install python3-venv)"))

endif
