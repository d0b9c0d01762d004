# Everything runs from a virtual environment made here; nothing else is needed than Python 3.11+ and its venv module.
PYTHON ?= python3
SEED ?= 0
BEFORE ?=
OUT ?= runs/quickstart_$(SEED)
BIN := .venv/bin

.PHONY: quickstart control direct test test-full test-cluster lint bench verifier-table figures coverage chain reference controller scaling study curation install clean stress bench-verifiers bench-mechanisms

install: .venv/core
.venv/core: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3-venv is missing: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@
.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

quickstart: .venv/core  ## the main job on Countdown: a report in OUT after about four minutes
	$(BIN)/python -m longthink.quickstart main --seed $(SEED) --out $(OUT)
control: .venv/core  ## the same CPU seconds spent on more fine-tuning, beside the main job in OUT
	$(BIN)/python -m longthink.quickstart control --seed $(SEED) --out $(OUT)
direct: .venv/core  ## the same generated tokens, trained at the last window from the start
	$(BIN)/python -m longthink.quickstart direct --seed $(SEED) --out $(OUT)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
test: lint  ## the suite: at most 7 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not full and not cluster"
test-full: lint  ## every kill point and every row
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not cluster"

.venv-cluster/ready: pyproject.toml tests/cluster-requirements.txt
	@test -x .venv-cluster/bin/python || $(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check -r tests/cluster-requirements.txt -e '.[dev]'
	.venv-cluster/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@
test-cluster: .venv-cluster/ready  ## sharded learners, samplers, vLLM, Ray on a CPU: about a quarter of an hour; FULL=1: every kill
	.venv-cluster/bin/python -m pytest -n 2 --dist loadfile -m "$(if $(FULL),cluster,cluster and not full)" -W default

bench:  ## ratios against TRL and transformers, each in its own environment, then what each mechanism costs
	benchmarks/run
	$(MAKE) bench-mechanisms
bench-verifiers: .venv/dev  ## verifications a second against math-verify, programs against cold interpreters
	$(BIN)/python benchmarks/verifiers.py --write
	$(BIN)/python benchmarks/pathological.py --write
bench-mechanisms: .venv/core  ## what each mechanism adds to a training step: about fifteen minutes
	$(BIN)/python benchmarks/mechanisms.py --before "$(BEFORE)"
stress: .venv/dev  ## 100,000 rows, 1,000 of them hostile, through `longthink verify`
	$(BIN)/python benchmarks/stress.py
verifier-table: .venv/core  ## agreement of each maths grader with hand-made labels
	$(BIN)/python benchmarks/verifier_table.py --write
figures: .venv/core  ## the curves of docs/papers.md, drawn by the functions that training uses
	$(BIN)/python benchmarks/figures.py
coverage: .venv/core  ## how often the intervals of an evaluation hold the truth
	$(BIN)/python benchmarks/coverage.py

chain: .venv/core  ## a quickstart's models evaluated, compared and drawn into OUT/chain
	benchmarks/chain $(OUT)

reference: .venv/core  ## docs/recipe.md, from the classes that read recipes
	$(BIN)/python benchmarks/reference.py
controller: .venv/core  ## what the triggers do on simulated runs: options chosen on one family, judged on another
	$(BIN)/python benchmarks/controller.py
scaling: .venv-cluster/ready  ## a step by phase in each placement, and the simulation against it: about six minutes
	.venv-cluster/bin/python benchmarks/scaling.py
curation: .venv/core  ## PART=rules|leaks|scale|speed of docs/curation.md; DATA names a folder of benchmark files
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[curate]'
	$(BIN)/python benchmarks/curation.py $(PART)
study: $(if $(filter cluster_mini,$(NAME)),.venv-cluster/ready,.venv/core)  ## a resumable experiment: make study NAME=quickstart
	$(if $(filter cluster_mini,$(NAME)),.venv-cluster/bin,$(BIN))/python benchmarks/study.py $(NAME)
clean:
	rm -rf .venv .venv-peer .venv-cluster .mypy_cache .ruff_cache
