# Every target makes what it needs in .venv/ and then runs; `make help` lists them.
# Options are variables: make extract DATASET=folder ROOT=clips LABEL_COLUMN=verb FEATURES=lite:frames

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AVFUSE := $(BIN)/avfuse

DATASET ?= demo
FUSION ?= all

comma := ,

# An option is passed on only when its variable is set; a switch set to 0 is not.
flag = $(if $($(1)),$(2) "$($(1))")
switch = $(if $(filter-out 0,$($(1))),$(2))

DATASET_FLAGS = $(call flag,ROOT,--root) $(call flag,ANNOTATIONS,--annotations) $(call flag,COLLECTION,--collection) \
	$(call flag,SPLIT,--split) $(call flag,SUBSET,--subset) $(call flag,VARIANT,--variant) $(call flag,CLASSES,--classes) \
	$(call flag,VGGSOUNDER,--vggsounder) $(call flag,VGGSOUNDER_LABELS,--vggsounder-labels) \
	$(call flag,TRAIN_LIST,--train-list) $(call flag,TABLE,--table) $(call flag,LABEL_COLUMN,--label-column) \
	$(call flag,GROUP_COLUMN,--group-column) $(call flag,SPLIT_COLUMN,--split-column) $(call flag,TARGETS,--targets) \
	$(call flag,SEVERAL,--several) $(call switch,OUTSIDE_ROOT,--outside-root) $(call flag,FRACTION,--fraction) \
	$(call flag,CLIPS,--clips) $(call flag,SAMPLING,--sampling) $(call flag,FOLDS,--folds) $(call flag,FOLD,--fold) \
	$(call flag,VALIDATION,--validation) $(call flag,SEED,--seed)
SHARED_FLAGS = $(call flag,NAME,--name) $(call flag,CACHE,--cache) $(call switch,REPLACE,--replace) $(ARGS)

# make takes a misspelt variable without a word: what the command line sets and nothing here reads ends it.
SET_BY_USER := $(foreach each,$(.VARIABLES),$(if $(filter command line,$(origin $(each))),$(each)))
READ_HERE := $(sort $(shell grep -oE '[A-Z][A-Z_]+' $(firstword $(MAKEFILE_LIST))))
$(foreach each,$(filter-out $(READ_HERE),$(SET_BY_USER)),$(error nothing reads the variable $(each): make help names those of each target))

# SEED decides which clips a data set has; heads are trained from SEEDS seeds.
ifneq ($(filter command line,$(origin SEED)),)
ifneq ($(filter fuse ablate understand,$(MAKECMDGOALS)),)
$(error SEED draws the clips of a data set (make manifest): name how many seeds to train from, SEEDS=N)
endif
endif

needed = $(or $($(1)),$(error $(1) is missing: $(2)))

.PHONY: help demo test test-all manifest extract cluster fuse predict ablate tables-demo understand retrieve report bench compare-readers compare-precision torture survey-damage docs-images docs lint format clean lock test-lowest test-newest wheel install install-cluster gpu-check wheels
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## render a small data set, extract its features, train six heads, write runs/demo/demo/report.html
	@$(AVFUSE) extract --dataset demo
	@$(AVFUSE) fuse --dataset demo --fusion all --name demo --seeds 3 --replace

manifest: $(VENV)/.installed ## list a data set's clips: DATASET=ucf101|kinetics_sounds|vggsound|epic_kitchens_100|folder|csv, ROOT=..., ANNOTATIONS=..., SUBSET, SPLIT, FRACTION, ... (docs/datasets.md)
	@$(AVFUSE) manifest "$(DATASET)" $(DATASET_FLAGS) $(call flag,FORMAT,--format) $(call flag,JOBS,--jobs) \
		$(call switch,NO_PROBE,--no-probe) $(SHARED_FLAGS)

extract: $(VENV)/.installed $(if $(filter dask,$(ENGINE)),$(VENV)/.installed-cluster) ## stage one: DATASET=demo|ucf101|folder|..., ROOT=..., FEATURES=..., FRAMES=uniform:25, READER=pyav, STYLE=aligned, WEIGHTS=auto, PRECISION=fp32, DTYPE=fp16, DEVICE=auto, LIMIT=N, WORKERS=N, CHUNK_RANGE=I/N, ENGINE=dask SCHEDULER=tcp://HOST:8786
	@$(AVFUSE) extract --dataset "$(DATASET)" $(DATASET_FLAGS) $(call flag,FEATURES,--features) \
		$(call flag,FRAMES,--frames) $(call flag,LIMIT,--limit) $(call flag,WORKERS,--workers) \
		$(call flag,READER,--reader) $(call flag,STYLE,--style) $(call flag,SIZE,--size) $(call flag,WEIGHTS,--weights) \
		$(call flag,PRECISION,--precision) $(call flag,DTYPE,--dtype) $(call switch,RETRY_FAILED,--retry-failed) \
		$(call flag,CHUNK_RANGE,--chunk-range) $(call flag,ENGINE,--engine) $(call flag,SCHEDULER,--scheduler) \
		$(call flag,DEVICE,--device) $(SHARED_FLAGS)

cluster: $(VENV)/.installed-cluster ## a Dask scheduler and two workers on this machine, for ENGINE=dask
	@$(AVFUSE) cluster $(ARGS)

fuse: $(VENV)/.installed ## stage two: DATASET=..., FUSION=mlp|crossattn|...|all, SEEDS=N, SET="video=flatten l1=1e-5", SWEEP="lr=1e-4,3e-4", NAME=... (docs/fusion.md)
	@$(AVFUSE) fuse --dataset "$(DATASET)" --fusion "$(FUSION)" $(call flag,SEEDS,--seeds) $(call flag,VIDEO,--video) \
		$(call flag,AUDIO,--audio) $(call flag,EPOCHS,--epochs) $(foreach each,$(SET),--set "$(each)") \
		$(foreach each,$(SWEEP),--sweep "$(each)") $(call flag,MEMORY,--memory) $(call flag,RUNS,--runs) $(call flag,DEVICE,--device) \
		$(SHARED_FLAGS)

predict: $(VENV)/.installed ## what trained heads say of media files: CLIP="a.mp4 b.wav", RUN=runs/clips/all, HEAD=mlp, WINDOW=4, HOP=1, OUT=x.json|x.csv|x.png, EXPLAIN=FOLDER (docs/predict.md)
	@$(AVFUSE) predict $(call needed,CLIP,CLIP="a.mp4 b.wav") \
		--run "$(call needed,RUN,RUN=runs/DATASET/NAME; avfuse runs list names them)" $(call flag,HEAD,--head) \
		$(call flag,TOP,--top) $(call flag,WINDOW,--window) $(call flag,HOP,--hop) $(call flag,OUT,--output) \
		$(call flag,EXPLAIN,--explain) $(call flag,WEIGHTS,--weights) $(call flag,DEVICE,--device) $(ARGS)

ablate: $(VENV)/.installed ## a paper's table: TABLE=maivar-table2, DATASET=..., BACKBONES=lite|paper, SEEDS=N, EPOCHS=N, GRID=small|none, JOBS=N, EXTRACT=1, PARTIAL=1 (docs/tables.md); without TABLE, the list
	@$(AVFUSE) ablate $(TABLE) --dataset "$(DATASET)" $(call flag,BACKBONES,--backbones) $(call flag,SEEDS,--seeds) \
		$(call flag,EPOCHS,--epochs) $(foreach each,$(SET),--set "$(each)") $(call flag,GRID,--grid) \
		$(call switch,EXTRACT,--extract) $(call switch,PARTIAL,--partial) $(call flag,MEMORY,--memory) $(call flag,JOBS,--jobs) $(call flag,RUNS,--runs) \
		$(call flag,DEVICE,--device) $(call flag,NAME,--name) $(call flag,CACHE,--cache) $(ARGS)

TABLES ?= $(notdir $(basename $(wildcard pipeline/experiments/*.yaml)))

tables-demo: $(VENV)/.installed ## every table on half of the demo data set, with few frames, epochs and seeds, to see that all of it runs
	@$(AVFUSE) manifest demo --fraction .5 --name demo-half --collection demo
	@for table in $(TABLES); do \
		$(AVFUSE) ablate $$table --dataset demo-half --backbones quick --seeds 2 --epochs 2 --grid none --extract $(ARGS) || exit 1; done

WHAT ?= contribution
RUN_FOLDER = "$(or $(RUNS),runs)/$(DATASET)/$(or $(NAME),$(subst $(comma),+,$(FUSION)))"
UNDERSTAND_contribution = --dataset "$(DATASET)" $(if $(filter-out all,$(FUSION)),--fusion "$(FUSION)") \
	$(call flag,VIDEO,--video) $(call flag,AUDIO,--audio) $(call flag,SPLIT,--split) $(call flag,SEEDS,--seeds) \
	$(call flag,EPOCHS,--epochs) $(foreach each,$(SET),--set "$(each)") $(call flag,MEMORY,--memory) \
	$(call flag,RUNS,--runs) $(call flag,DEVICE,--device) $(SHARED_FLAGS)
UNDERSTAND_robustness = $(RUN_FOLDER) $(foreach each,$(HEAD),--head "$(each)") $(call flag,MEMORY,--memory) \
	$(call flag,DEVICE,--device) $(call flag,CACHE,--cache) $(ARGS)
UNDERSTAND_gains = $(RUN_FOLDER) --before "$(or $(BEFORE),video)" --after "$(or $(AFTER),mlp)" \
	$(call flag,RUN_BEFORE,--run-before) $(ARGS)
UNDERSTAND_explain = $(RUN_FOLDER) $(foreach each,$(or $(HEAD),mlp),--head "$(each)") \
	$(foreach each,$(CLIP),--clip "$(each)") $(call flag,METHOD,--method) \
	$(call flag,DEVICE,--device) $(call flag,CACHE,--cache) $(ARGS)

understand: $(VENV)/.installed ## what modalities are worth, what heads withstand, which classes gain, where heads look: WHAT=contribution FUSION=mlp SPLIT=audio, or of the run NAME=...: WHAT=robustness HEAD=mlp, WHAT=gains BEFORE=video AFTER=mlp, WHAT=explain HEAD="video crossattn" (docs/understanding.md)
	@$(AVFUSE) understand "$(WHAT)" $(UNDERSTAND_$(WHAT))

retrieve: $(VENV)/.installed ## pictures by sound and sounds by picture, of the run NAME=... that was trained with SET="avc=0.5": HEAD=crossattn, QUERY=CLIP_ID, FROM=audio|video, TOP=5, SPLIT=test|train|all (docs/retrieval.md)
	@$(AVFUSE) retrieve $(RUN_FOLDER) $(call flag,HEAD,--head) $(call flag,QUERY,--query) $(call flag,FROM,--from) \
		$(call flag,TOP,--top) $(call flag,SPLIT,--split) $(call flag,MEMORY,--memory) $(call flag,DEVICE,--device) \
		$(call flag,CACHE,--cache) $(ARGS)

report: $(VENV)/.installed ## one page of a run, of several, or of a table: DATASET=..., NAME=... (the run's name), or RUN="runs/clips/all runs/clips/chroma:mlp", OUT=page.html, MAX_CLIPS=24, LIMIT=10 (docs/report.md)
	@$(AVFUSE) report $(or $(RUN),$(RUN_FOLDER)) $(call flag,OUT,--output) $(call flag,MAX_CLIPS,--clips) \
		$(call flag,LIMIT,--limit) $(call flag,CACHE,--cache) $(ARGS)

PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# The quick checks of the GPU run on a CPU here; make gpu-check runs all of them, and names the GPU.
FAST = AVFUSE_TEST_DEVICE="$${AVFUSE_TEST_DEVICE:-cpu}" $(PYTEST) -m "not slow"

test: $(VENV)/.installed-test ## run the tests of every module, in minutes: ARGS="tests/features -x" runs a part
	@$(FAST) $(ARGS)

# pytest ends with 5 where ARGS names tests of one kind alone.
test-all: $(VENV)/.installed-test ## run all tests: also those of the site, the notebook, pages in a browser, commands of the documentation, every backbone, a cluster
	@$(FAST) $(ARGS) || [ $$? -eq 5 ]
	@$(PYTEST) -m slow $(ARGS) || [ $$? -eq 5 ]

bench: $(VENV)/.installed-test ## run every benchmark; make bench-NAME runs one
	@for script in tests/benchmarks/bench_*.py; do PYTHONPATH=tests/helpers $(BIN)/python "$$script" || exit 1; done

compare-readers: $(VENV)/.installed-test ## hold readers against a plain decode: CLIPS=FOLDER
	@PYTHONPATH=tests/helpers $(BIN)/python tests/benchmarks/compare_readers.py "$(CLIPS)"

compare-precision: $(VENV)/.installed-test ## how far half precision moves every backbone's features
	@$(BIN)/python tests/benchmarks/compare_precision.py

torture: $(VENV)/.installed-test ## kill extractions at random, run several at once, lose a cluster's worker: ORDEALS=kills,two,four,cluster KILLS=100
	@PYTHONPATH=. $(BIN)/python tests/torture/torture.py

survey-damage: $(VENV)/.installed-test ## how often damage in media is noticed: CLIPS=FOLDER
	@$(BIN)/python tests/benchmarks/survey_damage.py "$(CLIPS)"

docs: $(VENV)/.installed-docs ## the site of these pages and of the Python API: docs/_build/html/index.html; the notebook runs where make demo has been
	@$(BIN)/python -m sphinx -q -b html -W --keep-going docs docs/_build/html $(ARGS)
	@echo docs/_build/html/index.html

docs-images: $(VENV)/.installed ## draw the pictures of docs/audio-images.md again
	@$(BIN)/python docs/draw_audio_images.py

# Waiting threads sleep as they do for users, though scripts import torch before avfuse.
ifeq ($(OMP_WAIT_POLICY)$(GOMP_SPINCOUNT)$(KMP_BLOCKTIME),)
bench bench-%: export OMP_WAIT_POLICY = PASSIVE
bench bench-%: export GOMP_SPINCOUNT = 30000
endif

bench-%: $(VENV)/.installed-test
	@PYTHONPATH=tests/helpers $(BIN)/python tests/benchmarks/bench_$(subst -,_,$*).py

lint: $(VENV)/.installed-lint ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.installed-lint ## let ruff format and fix the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove what tools leave behind; the cache and the runs stay
	@rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

# One virtual environment, with the extras asked for so far. It holds the versions of requirements/, which CI ran, and is
# brought up to date when those or pyproject.toml change. LOCK=none installs the newest versions that pyproject.toml
# allows; TORCH=cpu takes PyTorch without CUDA from PyTorch's own index.
INSTALLED := $(shell cat $(VENV)/.installed 2>/dev/null)
as_installed = $(or $(patsubst $(1)=%,%,$(filter $(1)=%,$(INSTALLED))),$(2))
LOCK ?= $(call as_installed,LOCK,requirements)
TORCH ?= $(call as_installed,TORCH,default)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
KIND := LOCK=$(LOCK) TORCH=$(TORCH)
ifneq ($(INSTALLED),)
ifneq ($(INSTALLED),$(KIND))
$(error $(VENV) was installed with $(INSTALLED): name another folder (VENV=.venv-other), or remove it to install with $(KIND))
endif
endif

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
EXACTLY := --no-deps --no-build-isolation --require-hashes
# On Linux the builds without CUDA are named +cpu, so that no other index that pip knows puts another one in their place.
CPU_BUILD := $(if $(filter Linux,$(shell uname)),+cpu)
LOCKED_PAIR := $(filter torch==% torchvision==%,$(shell cat requirements/pair.in))
CPU_PAIR = $(if $(filter none,$(LOCK)),torch torchvision,--no-deps $(addsuffix $(CPU_BUILD),$(LOCKED_PAIR)))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "avfuse needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(addprefix requirements/,torch.txt core.txt) | $(BIN)/python
	@echo "installing avfuse into $(VENV), $(KIND) (PyTorch is large: a few minutes the first time)"
ifeq ($(TORCH),cpu)
	@echo "taking PyTorch without CUDA: about 4.8 GB less on disk than the build that is installed otherwise"
	@$(PIP) --index-url "$(TORCH_INDEX)" $(CPU_PAIR) || \
		{ echo "make: no PyTorch for the CPU from $(TORCH_INDEX): leave out TORCH=cpu, or name a mirror with TORCH_INDEX=URL" >&2; exit 2; }
endif
ifeq ($(LOCK),none)
	@$(PIP) --editable .
else
	@$(PIP) $(EXACTLY) $(if $(filter-out cpu,$(TORCH)),-r requirements/torch.txt) -r requirements/core.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
endif
	@echo "compiling librosa's kernels (once)"
	@$(BIN)/python -c "import avfuse, numpy; avfuse.render(numpy.ones(4096), 44100)"
	@echo "$(KIND)" > $@

$(VENV)/.installed-%: $(VENV)/.installed pyproject.toml requirements/%.txt
	@echo "installing what '$*' needs"
	@$(PIP) $(if $(filter none,$(LOCK)),--editable ".[$*]",$(EXACTLY) -r requirements/$*.txt)
	@touch $@

install: $(VENV)/.installed ## install avfuse into .venv
install-cluster: $(VENV)/.installed-cluster ## install what a cluster needs as well

# uv resolves; users need pip alone.
TOOLS := build/tools
$(TOOLS)/bin/uv:
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet uv

lock: $(TOOLS)/bin/uv ## renew requirements/: the newest versions that pyproject.toml and requirements/pair.in allow, with hashes
	@PATH="$(abspath $(TOOLS)/bin):$$PATH" $(PYTHON) requirements/lock.py

RESOLUTION_lowest := lowest-direct
RESOLUTION_newest := highest
test-lowest: $(TOOLS)/bin/uv ## run the fast tests with the lowest versions that pyproject.toml allows: PYTHON=python3.13
test-newest: $(TOOLS)/bin/uv ## run the fast tests with the newest versions that pyproject.toml allows: PYTHON=python3.13
test-lowest test-newest: test-%:
	@$(TOOLS)/bin/uv venv --quiet --clear --python "$(PYTHON)" build/venv-$*
	@$(TOOLS)/bin/uv pip install --quiet --compile-bytecode --python build/venv-$*/bin/python --resolution $(RESOLUTION_$*) --editable ".[test]"
	@$(TOOLS)/bin/uv pip list --python build/venv-$*/bin/python | grep -E '^(av|h5py|librosa|numpy|pandas|scikit-learn|scipy|torch|torchvision|transformers) '
	@touch build/venv-$*/.installed build/venv-$*/.installed-test
	@$(MAKE) --no-print-directory VENV=build/venv-$* test

wheel: $(VENV)/.installed ## build dist/avfuse-VERSION-py3-none-any.whl
	@rm -rf build/lib build/bdist.*
	@$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/avfuse-*.whl

# ---- The GPU in one call (docs/gpu.md) ----

# SYSTEM_TORCH=1: PYTHON's own PyTorch, the rest from build/wheels/ where PYTHON lacks it, and no package index.
SITE := build/site
GPU_NEEDS = $(if $(filter-out 0,$(SYSTEM_TORCH)),$(SITE)/.installed,$(VENV)/.installed-test)
GPU_PYTHON = $(if $(filter-out 0,$(SYSTEM_TORCH)),PYTHONPATH="$(CURDIR)/$(SITE):$(CURDIR)" $(PYTHON),$(BIN)/python)

gpu-check: $(GPU_NEEDS) ## the GPU's tests and figures in at most eight minutes, into build/bench/gpu.json: DEVICE=cuda:0, DEVICE=cpu for a reduced run, BUDGET=460 seconds, ONLY=test-training,bench-fuse-gpu, PYTHON=python3 SYSTEM_TORCH=1 where no package index is (docs/gpu.md)
	@DEVICE="$(DEVICE)" BUDGET="$(BUDGET)" ONLY="$(ONLY)" $(GPU_PYTHON) tests/benchmarks/gpu_check.py

wheels: $(VENV)/.installed-test ## download what gpu-check needs beside PyTorch into build/wheels/: WHEELS_PYTHON=3.12, WITHOUT=decord,plotly or a file of pip freeze
	@$(BIN)/python tests/gpu/wheels.py build/wheels "$(or $(WHEELS_PYTHON),3.12)" "$(WITHOUT)"

$(SITE)/.installed: $(wildcard build/wheels/*.whl)
	@rm -rf $(SITE) && mkdir -p $(SITE)
	@$(if $^,$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $(SITE) $^)
	@PYTHONPATH="$(CURDIR)/$(SITE):$(CURDIR)" $(PYTHON) -c "import avfuse, numpy; avfuse.render(numpy.ones(4096), 44100)"
	@touch $@
