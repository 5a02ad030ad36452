# Two commands: `make lab` to read the course, `make test` to check it. `make` lists the rest.
# For GNU make 3.81 or newer with a POSIX shell; README.md says what to type without them.
#
#   PYTHON=/path/to/python   use an environment that you made; nothing is installed into it
#   ARGS=…                   more arguments for JupyterLab (lab), pytest (quick, test, test-long)
#                            or the notebooks to re-execute (refresh), the modules (mutants)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab quick test test-long mutants verify refresh gallery bench clean environment model

VENV  := .venv
STAMP := $(VENV)/.installed

ifdef PYTHON
PY := $(PYTHON)
else
PY := $(VENV)/bin/python
endif

# Python, with torch's threads told how to wait for each other, unless the user has told them.
RUN = env `"$(PY)" -m radix_lib._openmp` "$(PY)"

help:
	@echo 'make lab        open the course in JupyterLab (the first time: installs it, 5 to 10 minutes)'
	@echo 'make quick      lint, format and the tests of the control plane: under a minute'
	@echo 'make test       the same, types, all tests, and every notebook run and compared'
	@echo 'make test-long  the tests that take minutes: three quarters of an hour'
	@echo 'make mutants    which changes of the control plane no test notices: an hour, needs mutmut'
	@echo 'make verify     compare all logits in all cache states with Hugging Face, bit by bit'
	@echo 'make refresh    re-execute the notebooks and write them in their normal form'
	@echo 'make gallery    draw one figure of each kind into build/gallery, to look at'
	@echo 'make bench      time everything beside its peers, as ratios: under ten minutes'
	@echo 'make clean      remove .venv, build and the caches of tools; the prepared model stays'

lab: model
	$(RUN) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

quick: environment
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m pytest tests/control $(ARGS)

# One process alone leaves a third of two cores idle. With loadfile a file stays whole, and so a
# notebook its kernel.
TWO_PROCESSES = --numprocesses 2

test: model
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy
	$(RUN) -m pytest --nbval $(TWO_PROCESSES) --dist loadfile $(ARGS)

test-long: model
	$(RUN) -m pytest -m long $(TWO_PROCESSES) $(ARGS)

mutants: environment
	"$(PY)" -m tests.tools.mutants $(ARGS)

verify: model
	$(RUN) -m radix_lib --exact $(ARGS)

refresh: model
	$(RUN) -m tests.tools.refresh $(ARGS)

gallery: environment
	"$(PY)" -m tests.tools.gallery $(ARGS)

bench: model
	$(RUN) -m tests.tools.benchmarks.bench $(ARGS)

clean:
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Done already, this takes a moment and prints nothing of note.
model: environment
	@"$(PY)" -m radix_lib.model_loader

# radix_lib must be installed from this very folder: -P, since what lies here does not count, and -E,
# since what PYTHONPATH names does not. But no other may come before it.
HERE = from importlib.util import find_spec; from os.path import samefile; samefile(find_spec("radix_lib").origin, "radix_lib/__init__.py") or exit(1)

define NO_OTHER
"$(PY)" -P -c '$(HERE)' >/dev/null 2>&1 || { \
  echo "PYTHONPATH=$$PYTHONPATH puts another radix_lib before the one in this folder."; \
  echo 'Run "unset PYTHONPATH", then this again.'; \
  exit 1; }
endef

ifdef PYTHON

HAS_ALL = import re; from importlib.metadata import requires, version; [version(re.match(r"[\w.-]+", p)[0]) for p in requires("radix_lib")]

environment:
	@"$(PY)" --version >/dev/null 2>&1 || { echo 'PYTHON=$(PYTHON) is no Python that runs here.'; exit 1; }
	@"$(PY)" -P -E -c '$(HERE); $(HAS_ALL)' >/dev/null 2>&1 || { \
	  echo 'PYTHON=$(PYTHON) ($(shell "$(PYTHON)" --version 2>&1)) lacks what the course needs:'; \
	  echo 'Python 3.11 to 3.14 and the packages of pyproject.toml. If it is an environment of your own, run in this folder'; \
	  echo; \
	  echo '    "$(PYTHON)" -m pip install -e ".[dev]"'; \
	  echo; \
	  echo 'or leave PYTHON away, and make prepares an environment of its own in $(VENV).'; \
	  exit 1; }
	@$(NO_OTHER)

else

environment: $(STAMP)
	@"$(PY)" -P -E -c '$(HERE)' >/dev/null 2>&1 || { \
	  echo 'This folder was moved, or the Python of $(VENV) is gone: run "make clean", then this again.'; \
	  exit 1; }
	@$(NO_OTHER)

# PyPI's torch for Linux brings gigabytes of CUDA. Where there is no NVIDIA GPU, PyTorch's own index of
# CPU builds is asked for the same version, unless the user has told pip where to look. If it does not
# answer in a few seconds, pip finds torch as it always does.
CPU_BUILDS := https://download.pytorch.org/whl/cpu
TOLD_WHERE_TO_LOOK = "$(PY)" -m pip config list | grep -q -E '^[^=]*(index|find-links)'
ASK = timeout 10 "$(PY)" -m pip index versions --timeout 5 --retries 0 --index-url $(CPU_BUILDS) torch

define CPU_BUILD
if test "`uname -s`" = Linux && ! nvidia-smi -L >/dev/null 2>&1 && ! $(TOLD_WHERE_TO_LOOK); then \
  torch=`sed -n 's/^ *"\(torch==.*\)",/\1/p' pyproject.toml`; \
  echo "There is no NVIDIA GPU: asking $(CPU_BUILDS) for $$torch"; \
  $(ASK) 2>/dev/null | grep -q -F "$${torch#torch==}" && \
  "$(PY)" -m pip install --disable-pip-version-check --no-deps --index-url $(CPU_BUILDS) "$$torch" || \
  echo 'It has none, or does not answer: pip takes torch from where it looks by itself.'; \
fi
endef

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
	@$(CPU_BUILD)
	"$(PY)" -m pip install --disable-pip-version-check -e '.[dev]'
	@touch '$@'

TELL = import sys; from importlib import util; print("   ", sys.argv[1], "is", sys.version.split()[0] + ("" if util.find_spec("ensurepip") else ", without ensurepip (on Debian and Ubuntu: apt install python3-venv)"))

endif
