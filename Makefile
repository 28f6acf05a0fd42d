# DR-Syncer. `make help` lists what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help

ROOT := $(CURDIR)
BIN := $(ROOT)/bin
TOOLS := $(ROOT)/.cache/bin
KUBE := $(TOOLS)/kube
RSYNC := $(TOOLS)/rsync
GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
GO_NEEDED := 1.26
TOOL := go tool -modfile=$(ROOT)/tools/go.mod

# make test RACE=1 PKG=./kube/...
PKG ?= ./...
RACE ?=
FUZZTIME ?= 10s
# make demo KEEP=1
KEEP ?=
# make bench ONLY=name
ONLY ?=

# One setting for everything that is built, so that one cache serves all. Only the race detector needs C.
export CGO_ENABLED ?= 0

# The version that the products tell; nothing when this is not a git checkout.
VERSION := $(shell git -C $(ROOT) describe --tags --always --dirty 2>/dev/null)
BUILD := go build -buildvcs=false -ldflags "-s -w -X github.com/dr-syncer/dr-syncer/internal/app.version=$(VERSION)"

MODULES := . tools test/kube
# Everything that `make generate` writes.
GENERATED := api/v1alpha1/zz_generated.deepcopy.go charts/dr-syncer/crds docs/metrics.md

.PHONY: help
help: ## List the targets
	@echo "DR-Syncer. Targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "make demo KEEP=1      leave the two clusters running and say how to look at them"
	@echo "make test PKG=./kube  the tests of one package; RACE=1 with the race detector"
	@echo "make bench ONLY=NAME  one figure"

.PHONY: demo
demo: kube build ## Replicate an application between two real API servers, and watch
	@tools/progress.sh "Building the demo" 0 go build -buildvcs=false -o $(TOOLS)/demo ./test/demo && KEEP=$(KEEP) exec $(TOOLS)/demo

.PHONY: test
test: kube rsync build ## Run every test: unit, conformance, integration (no root needed)
	@$(if $(RACE),CGO_ENABLED=1) go run ./test/run $(if $(RACE),-race) $(PKG)

.PHONY: race
race: prerequisites-race ## The same with the race detector
	@$(MAKE) --no-print-directory test RACE=1

.PHONY: build
build: prerequisites ## Build the products into bin/
	@mkdir -p $(BIN)
	@tools/progress.sh "Building the products (once: about 3 minutes on 2 cores, seconds when cached)" 0 $(BUILD) -o $(BIN)/ ./cmd/...

.PHONY: kube
kube: prerequisites ## Build the Kubernetes that tests and demo run against
	@test/kube/build.sh $(KUBE)

# Beside kube, so that who runs no Pods need not wait for it.
.PHONY: kube-node
kube-node: kube ## Build and install what nodes take: kubelet, containerd, Debian's runc and so on
	@test/kube/build.sh $(TOOLS)/node/kube-node ./node
	@tools/node.sh $(TOOLS)/node

.PHONY: e2e
e2e: kube-node rsync build ## Run the product as Pods in two clusters with nodes (as root; a few minutes)
	@go run ./test/run -tags e2e -steps -timeout 30m ./test/e2e

.PHONY: rsync
rsync: prerequisites ## Fetch an rsync that is new enough for the mover, unless there is one
	@tools/rsync.sh $(RSYNC)

.PHONY: bench
bench: kube rsync build ## Measure the figures of merit; writes test/bench/results.json
	@go run ./test/bench $(if $(ONLY),-only $(ONLY))

.PHONY: soak
soak: kube rsync build ## Run the tests of volumes with much data and many repetitions (about 10 minutes)
	@DRS_SOAK=1 go run ./test/run ./transfer/rsync ./test/volumes

.PHONY: fuzz
fuzz: prerequisites ## Run each fuzz target for FUZZTIME (10s)
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters
	@$(GOLANGCI_LINT) run

.PHONY: vet
vet: prerequisites ## Run go vet over every module
	@go vet ./...
	@go vet -tags e2e ./test/e2e
	@cd test/kube && env -u CGO_ENABLED go vet -trimpath . # as it is built, or all of Kubernetes would be compiled again

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code
	@$(GOLANGCI_LINT) fmt

.PHONY: generate
generate: prerequisites ## Write generated files: deep copies, CRDs, docs/metrics.md
	@$(TOOL) controller-gen object paths=./api/... crd paths=./api/... output:crd:dir=charts/dr-syncer/crds
	@go generate ./...

.PHONY: verify
verify: prerequisites ## Check that generated files, modules and floors are in order
	@tools/verify.sh "$(GENERATED)" "$(MODULES)"
	@go test -count=1 .

.PHONY: clean
clean: ## Remove what was built, the tools too
	@rm -rf $(BIN) $(ROOT)/.cache

$(GOLANGCI_LINT): | prerequisites
	@mkdir -p $(TOOLS)
	@GOBIN=$(TOOLS)/lint.new tools/progress.sh "Building golangci-lint $(GOLANGCI_LINT_VERSION) from source (once: about 5 minutes on 2 cores)" 0 \
		go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(TOOLS)/lint.new/golangci-lint $@ && rmdir $(TOOLS)/lint.new

# What has to be there, each with its cure.
.PHONY: prerequisites
prerequisites:
	@command -v go >/dev/null || { echo "make: Go is not installed. Install Go $(GO_NEEDED) or newer: https://go.dev/dl" >&2; exit 1; }
	@command -v git >/dev/null || { echo "make: git is not installed. On Debian: apt-get install git" >&2; exit 1; }
	@go env GOVERSION >/dev/null 2>&1 && go list -m >/dev/null 2>&1 || { \
		echo "make: Go $(GO_NEEDED) or newer is needed; this is $$(cd / && go env GOVERSION). Install it from https://go.dev/dl" >&2; exit 1; }

.PHONY: prerequisites-race
prerequisites-race: prerequisites
	@command -v "$$(go env CC)" >/dev/null || { \
		echo "make: the race detector needs a C compiler. On Debian: apt-get install gcc libc6-dev (make test works without)" >&2; exit 1; }
