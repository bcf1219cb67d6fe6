# make help tells the targets.

TOOLS := $(CURDIR)/bin/tools

# Pinned: a new version is taken on purpose.
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
VULN     := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.DEFAULT_GOAL := help
.PHONY: help build setup demo test unit machine soak lint generate bench vuln clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

# The version is the one that Go takes from git.
build: ## Build bin/stead, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/stead ./cmd/stead

demo: ## Show the whole recipe on real machines (sets up what is missing)
	scripts/setup demo
	$(MAKE) --no-print-directory build
	scripts/demo

test: ## Run all tests (STEAD_STRICT=1: a skipped test is a failure)
	scripts/setup test
	scripts/test all

unit: ## Run the tests that boot no machine, with the race detector
	scripts/test unit

machine: ## Run the tests that boot machines
	scripts/test machine

SOAK_ROUNDS ?= 1000

# Each test of it is in `make test` in short; STEAD_SEED=N repeats an order of steps.
soak: ## Kill and cut the power SOAK_ROUNDS times while snapshots are made
	scripts/setup test
	STEAD_SOAK=$(SOAK_ROUNDS) scripts/test soak

# The cache is the checkout's own: what it keeps names files by their paths.
lint: export GOLANGCI_LINT_CACHE := $(CURDIR)/bin/cache/lint
lint: $(TOOLS)/golangci-lint ## Check style, formatting and scripts
	scripts/setup lint
	$(TOOLS)/golangci-lint run
	$(TOOLS)/golangci-lint fmt --diff
	scripts/lint-scripts

$(TOOLS)/golangci-lint: Makefile
	GOBIN=$(TOOLS) GOFLAGS= go install $(GOLANGCI)
	touch $@

generate: ## Make the generated code anew
	go generate ./...

# BENCH="boot disk" measures those groups alone: see docs/benchmarks.md.
bench: ## Measure against the targets, into docs/benchmarks.md
	scripts/setup bench
	$(MAKE) --no-print-directory build
	go run ./scripts/bench -write docs/benchmarks.md $(BENCH)

vuln: ## Look for known vulnerabilities (needs the network)
	go run $(VULN) ./...

clean: ## Remove what was built
	rm -rf bin dist
