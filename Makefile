# make run      builds everything, fetches the default model once, serves the page and prints its address
# make test     runs every test there is, but for these, which fetch a lot or take long:
# make test-more-models  Gemma 3 270M, and SmolLM2 as a Hugging Face folder
# make test-tokenizers   tokenizers and chat templates on real vocabularies
# make test-long  what takes an hour or two: the browser killed KILLS= times (200) in runs that must not care, every
#               call to the GPU failing in every way, the page looked at by axe at every width in every scheme, and
#               the golden cases by the kernels that use workgroup memory
# make fuzz     gives libFuzzer each parser of files for FUZZ_SECONDS= (600), or those of TARGETS=; prints what it found
# make demo     trains without a person: drives the page in headless Chromium and prints what it shows
#               MODEL= .gguf file, model folder or org/name on the Hugging Face Hub (HUB= a mirror of it)
#               DATA= .jsonl file   OUT= folder for the adapter
#               STEPS= SEED= LR= RANK= ALPHA= TARGETS= (q_proj,v_proj or all-linear)   PROMPT=   PICTURE= file.png
# make profile  times every kernel of a training step of T= tokens; draws target/profile.svg, a flame graph
# make bench    measures products, training steps and generation, natively and in Chromium: target/bench.json
# make bench-peers  measures steps and products beside jax-js, TensorFlow.js and ferrotensor: target/bench.json
# make audit    asks the services of crates.io and npm what is known against what Cargo.lock and package-lock.json name
# make reproducible  builds the wasm a second time elsewhere, and compares
# make soak     1,000 steps of a tiny model, native and in Chromium: time and memory must stay as they are at first
# Each does its own set-up and skips what is done already. One at a time: some write where others read.

SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# wasm-bindgen built by set-up, and wasm-opt of npm.
export PATH := $(CURDIR)/.cache/tools/bin:$(CURDIR)/www/node_modules/.bin:$(PATH)

MODEL_FILE := .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_FOLDER := .cache/models/SmolLM2-135M-Instruct
GEMMA3_FILE := .cache/models/gemma-3-270m-Q4_K_M.gguf
WASM := www/pkg/web_lora_bg.wasm
BENCH_WASM := target/bench-pkg/web_lora_bg.wasm
SITE := www/site/index.html
CRATE := Cargo.toml Cargo.lock $(shell find src shaders -type f)
PAGE := www/package-lock.json www/index.html www/vite.config.ts www/service-worker.js www/tsconfig.json \
	www/tsconfig.package.json www/rolldown.config.mjs \
	$(shell find www/src www/page www/public -type f)
# Mesa's software Vulkan, whatever the machine's processor; looked up when used, as set-up may just have brought it.
# Mesa complains of a missing XDG_RUNTIME_DIR at every device.
LAVAPIPE = XDG_RUNTIME_DIR=$${XDG_RUNTIME_DIR:-/tmp} VK_DRIVER_FILES=$$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -n 1)

.PHONY: help setup model build run demo profile bench bench-peers soak fuzz audit reproducible
.PHONY: test test-rust test-model test-more-models test-tokenizers test-wasm test-wasm-kernels test-wasm-engine test-www test-package test-long

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

setup:
	@.ci/setup wasm npm browser

model: $(MODEL_FILE)

$(MODEL_FILE):
	@.ci/fetch-model

build: $(SITE)

# Where it was built is nobody's business, and must not make a difference: one source, one wasm, wherever.
WASM_FLAGS = --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}/registry/src=/crates --remap-path-prefix=$$PWD=/web-lora
# $(call wasm,FOLDER,FLAGS): the module and what loads it, in FOLDER.
wasm = RUSTFLAGS="$(WASM_FLAGS)" cargo build --lib --profile dist --target wasm32-unknown-unknown $(2) && \
	wasm-bindgen --target web --out-dir $(1) $${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown/dist/web_lora.wasm && \
	wasm-opt -O $(1)/web_lora_bg.wasm -o $(1)/web_lora_bg.wasm

# Tests in headless Chromium; webdriver.json has its flags.
WASM_TEST = CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=wasm-bindgen-test-runner CHROMEDRIVER=$$(command -v chromedriver) \
	WASM_BINDGEN_TEST_ONLY_WEB=1 WASM_BINDGEN_TEST_TIMEOUT=3000 cargo test --release --target wasm32-unknown-unknown

$(WASM): $(CRATE)
	@.ci/setup wasm npm
	$(call wasm,www/pkg)
	@echo "wasm: $$(stat -c %s $@) bytes, $$(gzip -9c $@ | wc -c) gzipped"

# Needs more of the network than package registries give.
audit:
	@.ci/setup npm package deny
	cargo-deny --config .ci/deny.toml check
	cd www && npm audit && npm audit signatures
	cd www/package-tests && npm audit

# The same source once more, in a folder of another name: the same bytes.
reproducible: $(WASM)
	rm -rf .cache/reproducible
	mkdir -p .cache/reproducible
	cp -r Cargo.toml Cargo.lock src shaders tests .cache/reproducible/
	cd .cache/reproducible && export CARGO_TARGET_DIR=$(CURDIR)/target/reproducible && $(call wasm,pkg)
	sha256sum www/pkg/web_lora_bg.wasm .cache/reproducible/pkg/web_lora_bg.wasm
	cmp www/pkg/web_lora_bg.wasm .cache/reproducible/pkg/web_lora_bg.wasm
	cmp www/pkg/web_lora.js .cache/reproducible/pkg/web_lora.js

$(BENCH_WASM): $(CRATE)
	@.ci/setup wasm npm
	$(call wasm,target/bench-pkg,--features bench)

$(SITE): $(WASM) $(PAGE)
	@.ci/setup npm
	cd www && npm run --silent build

run: $(SITE) $(MODEL_FILE)
	@.ci/setup npm
	cd www && npm run --silent start

DEMO_VARIABLES := MODEL HUB DATA OUT STEPS SEED LR RANK ALPHA TARGETS PROMPT PICTURE
export $(DEMO_VARIABLES)

demo: $(SITE) $(if $(MODEL),,$(MODEL_FILE))
	@.ci/setup npm browser
	@node www/demo/demo.mjs

# On the machine's own GPU where it has one.
profile: $(MODEL_FILE)
	XDG_RUNTIME_DIR=$${XDG_RUNTIME_DIR:-/tmp} SMOLLM2_GGUF=$(abspath $(MODEL_FILE)) cargo bench --bench profile

# Fast and likely to fail first: formatting, lints, then the suites from the inside out. Software GPUs do not fill two
# processors, nor does the linker: where nothing else runs, two things do.
test: setup
	@$(MAKE) test-rust
	@$(MAKE) test-model
	@$(MAKE) test-wasm
	@$(MAKE) test-www
	@$(MAKE) test-package
	@echo
	@echo "suites: 5 passed, 0 failed"

test-rust:
	@.ci/setup deny
	cargo fmt --check
	cargo-deny --config .ci/deny.toml --locked check bans licenses sources
	cargo clippy --release --all-targets -- -D warnings
	cargo clippy --release --target wasm32-unknown-unknown --lib --test tests -- -D warnings
	cargo clippy --release --target wasm32-unknown-unknown --features bench -- -D warnings
	$(LAVAPIPE) cargo test --release

# The tests that are ignored by default because they need the real model.
test-model: $(MODEL_FILE)
	$(LAVAPIPE) SMOLLM2_GGUF=$(abspath $(MODEL_FILE)) cargo test --release -- --ignored \
		--skip gemma3 --skip folder --skip real_vocabularies --skip seeds_are_written

# Not part of `make test`: a model under terms of its own, and a folder of 540 MB.
test-more-models: $(GEMMA3_FILE) $(SMOLLM2_FOLDER)/config.json
	@.ci/setup wasm browser
	$(LAVAPIPE) GEMMA3_GGUF=$(abspath $(GEMMA3_FILE)) SMOLLM2_FOLDER=$(abspath $(SMOLLM2_FOLDER)) \
		cargo test --release --test tests -- --ignored --nocapture --test-threads 1 gemma3 folder
	$(WASM_TEST) --test tests -- --include-ignored real_models

$(GEMMA3_FILE):
	@.ci/fetch-model gemma3

$(SMOLLM2_FOLDER)/config.json: $(MODEL_FILE) tests/fixtures/smollm2/make_folder.py
	python3 -m venv .cache/venv
	.cache/venv/bin/pip install --quiet gguf==0.19.0 safetensors==0.8.0
	.cache/venv/bin/python tests/fixtures/smollm2/make_folder.py $< $(@D)

# Tokenizers and chat templates against the reference libraries, on real vocabularies: some 2,300 texts for each of nine
# families. Apart from `make test`, as it fetches 600 MB.
test-tokenizers:
	@.ci/fetch-tokenizers
	TOKENIZERS_DIR=$(abspath .cache/tokenizers/reference) \
		cargo test --release --test tests -- --ignored --nocapture real_vocabularies

# Beside them what the next suites are about is built, in a folder of its own.
test-wasm:
	@.ci/setup wasm npm browser
	$(WASM_TEST) --lib --test tests --no-run
	@$(MAKE) -j2 --output-sync $(SITE) test-wasm-engine test-wasm-kernels

test-wasm-kernels:
	$(WASM_TEST) --lib

test-wasm-engine:
	$(WASM_TEST) --test tests

test-www: $(SITE)
	@.ci/setup package
	cd www && npm run --silent check && npm run --silent test

# What `npm pack` makes, in apps of every kind, and its documentation.
test-package: $(WASM)
	@.ci/setup npm package browser
	cd www && npm run --silent test:package && npm run --silent docs

fuzz:
	@.ci/setup fuzz
	@.ci/fuzz

test-long: $(SITE)
	@.ci/setup npm package browser
	for variant in direct tiled; do $(LAVAPIPE) WEB_LORA_VARIANT=$$variant cargo test --release golden:: || exit 1; done
	cd www && npm run --silent build:package && KILLS=$${KILLS:-200} FAULTS=all LOOKS=all npm run --silent test -- kills faults path pairs several

# Both halves on the machine's own GPU where it has one.
bench: $(BENCH_WASM) $(MODEL_FILE)
	@.ci/setup npm browser
	cargo bench --quiet --bench bench --no-run
	@XDG_RUNTIME_DIR=$${XDG_RUNTIME_DIR:-/tmp} SMOLLM2_GGUF=$(abspath $(MODEL_FILE)) node www/bench/bench.mjs

# All on the software GPUs of the tests: the browser's three take turns in one page, the native two in processes.
bench-peers: $(WASM) $(BENCH_WASM)
	@.ci/setup npm browser peers
	cd www && npm run --silent build:package
	cargo bench --quiet --bench bench_peers --no-run
	@node www/bench/browser.mjs
	@$(LAVAPIPE) node www/bench/native.mjs

soak: $(WASM)
	@.ci/setup npm browser
	cd www && npm run --silent build:package
	cargo bench --quiet --bench soak --no-run
	@$(LAVAPIPE) cargo bench --quiet --bench soak -- $${STEPS:-1000} | STEPS=$${STEPS:-1000} node www/bench/soak/soak.mjs
