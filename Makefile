# catstore: what there is to do. `make` alone lists it.

PREFIX ?= $(HOME)/.local
CARGO ?= cargo
SEEDS ?= 1000
SECONDS ?= 600
TORTURE_MINUTES ?= 15
DATA = $${XDG_DATA_HOME:-$$HOME/.local/share}/catstore

.PHONY: help demo test check fix build trained install uninstall simulate fuzz bench bench-limits bench-endurance bench-groups bench-failover bench-moves bench-files torture million setup deny

help:
	@echo 'make demo             a master and a worker to play with, until Ctrl-C'
	@echo 'make test             every test'
	@echo 'make check            formatting, lints, documentation, arrows, licences; changes nothing'
	@echo 'make fix              formats, and applies what clippy can mend'
	@echo 'make build            the release binary, target/release/catstore'
	@echo 'make trained          the faster one, built by what a load shows about it; a quarter of an hour'
	@echo 'make install          into PREFIX=$(PREFIX)/bin; with TRAINED=1 the faster one'
	@echo 'make uninstall        takes it out again; leaves the data and says where it is'
	@echo 'make simulate         the simulation with SEEDS=$(SEEDS) new seeds; SEED=N replays one'
	@echo 'make torture          kills, stops and cuts by chance for TORTURE_MINUTES=$(TORTURE_MINUTES), on processes'
	@echo 'make million          lists and kills while half of a million keys move'
	@echo 'make fuzz             each fuzz target for SECONDS=$(SECONDS)'
	@echo 'make bench            measures the trained one against Redis and etcd, draws curves, writes docs/benchmarks.md; 20 minutes'
	@echo 'make bench-limits     batches, tails, 10,000 connections, ten million keys'
	@echo 'make bench-endurance  half an hour of reads and writes at full speed'
	@echo 'make bench-groups     those of groups: writes against etcd, a clone under load'
	@echo 'make bench-moves      those of moves: pauses while slots move, throughput with the number of groups'
	@echo 'make bench-files      those of files: in and out against cp and nginx, memory, clones and moves of files'
	@echo 'make bench-failover   those of failover: how long nobody leads, what a planned restart costs'

# What is missing, such as cmake or a C++ compiler, is installed or named.
setup:
	@scripts/setup

demo: setup
	@$(CARGO) build --locked
	@scripts/foreground $(CARGO) run --locked --quiet -- demo

# Many tests wait for timeouts: more of them at once than there are processors.
test: setup
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} $(CARGO) test --locked

check: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --quiet --test arrows
	@$(MAKE) --no-print-directory deny

# Advisories need their database from the network, so they are for a human: `cargo deny check advisories`.
deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check bans licenses sources; \
	else \
	    echo 'check: licences and sources were NOT checked: cargo-deny is missing (cargo install cargo-deny --locked)'; \
	fi

fix: setup
	$(CARGO) clippy --locked --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt

build: setup
	$(CARGO) build --locked --release

trained: setup
	@scripts/trained build --locked --release
	@install -m 755 "target/trained/$$(rustc -vV | sed -n 's/^host: //p')/release/catstore" target/trained/catstore
	@echo 'built target/trained/catstore'

install: $(if $(filter 1,$(TRAINED)),trained,build)
	@mkdir -p '$(DESTDIR)$(PREFIX)/bin'
	@target="$$($(CARGO) metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"; \
	install -m 755 $(if $(filter 1,$(TRAINED)),target/trained/catstore,"$$target/release/catstore") '$(DESTDIR)$(PREFIX)/bin/catstore'
	@echo 'installed $(DESTDIR)$(PREFIX)/bin/catstore'
	@case ":$$PATH:" in *:'$(PREFIX)/bin':*) ;; *) echo 'note: $(PREFIX)/bin is not on your PATH' ;; esac

uninstall:
	@rm -f '$(DESTDIR)$(PREFIX)/bin/catstore'
	@echo 'removed $(DESTDIR)$(PREFIX)/bin/catstore'
	@if [ -d "$(DATA)" ]; then \
	    echo "left: your data in $(DATA):"; ls "$(DATA)"; echo "to remove it too: rm -r '$(DATA)'"; \
	else \
	    echo "there is no data in $(DATA)"; \
	fi

# New seeds each time, printed; `make simulate SEED=N` replays one. Optimized: ten times as many seeds a second.
simulate: setup
	SEEDS='$(SEEDS)' $(CARGO) test --locked --release --test simulation -- --nocapture

# CATSTORE_TEST_SEED=N repeats the choices of a run, though not its timing.
torture: setup
	TORTURE_MINUTES='$(TORTURE_MINUTES)' $(CARGO) test --locked --release --test torture -- --ignored --nocapture

# The promises about moves with a million keys: minutes.
million: setup
	$(CARGO) test --locked --release --test processes a_million_keys -- --ignored --nocapture --test-threads 1

fuzz: setup
	@scripts/fuzz '$(SECONDS)'

# The figures go into docs/benchmarks.md; `cargo bench` by itself only prints them.
bench: setup
	@scripts/setup bench
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench http
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench curves

bench-limits: setup
	@scripts/setup bench
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench limits

bench-endurance: setup
	@scripts/setup bench
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench limits -- endurance

bench-groups: setup
	@scripts/setup bench
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench groups

bench-moves: setup
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench moves

bench-files: setup
	@scripts/setup bench
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench files

bench-failover: setup
	CATSTORE_BENCH_WRITE=1 scripts/trained bench --locked --bench failover
