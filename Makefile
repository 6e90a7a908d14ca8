# Each target sets up .venv by itself, once, from a bare Python 3.10-3.12 (make PYTHON=python3.12 demo).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo video-demo check docs test gpu-test web-test style clean

.venv/.run: requirements.txt setup.py
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else "psa_paddle needs Python 3.10, 3.11 or 3.12; name one: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt -e .
	touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install -q -r requirements.txt -e '.[dev,docs]'
	touch $@

.venv/.browser: .venv/.dev
	$(BIN)/python -m pip install -q -r requirements.txt -e '.[dev,browser]'
	touch $@

demo: .venv/.run
	for prompt in "请描述这个视频" "Describe this video."; do \
		$(BIN)/python qwen2.5-vl/infer_qwen2_5_vl_psa.py --model demo --type video --input demo/sample.mp4 --fps 2 \
			--prompt "$$prompt" --max-tokens 64 --use-psa --stream || exit 1; \
	done

video-demo: .venv/.run
	$(BIN)/python examples/video_generation.py --prompt "a red ball rolls down a hill" --use_psa

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Into site/, from what is here alone. The theme's warning about another program's future is not about these documents.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Two files at a time on two cores take half as long; each process with one thread of arithmetic, as they share the cores.
test: check docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# On a machine with a CUDA GPU, with a Python that has torch, Triton, NumPy and pytest: make GPU_PYTHON=python3 gpu-test
GPU_PYTHON ?= $(PYTHON)
gpu-test:
	PYTHONPATH=. $(GPU_PYTHON) -m pytest tests/gpu -m gpu

# The page in Debian's chromium, or in another one: make CHROMIUM=/opt/chrome web-test
web-test: .venv/.browser
	$(BIN)/python -m pytest tests/web/browser -m browser

style: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build site *.egg-info
