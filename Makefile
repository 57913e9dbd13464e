# Every target works by itself as the first command after a clone. What it needs is made on the way:
# .venv (the workspace, editable), .venv-celery (a real Celery, for interoperation tests and benchmarks), servers.

PYTHON ?= python3
SEEDS ?= 30
# More arguments for pytest: make test ARGS="-k lease"
ARGS ?=
JOBS ?= 2

PACKAGES := core $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml)))
SOURCES := $(wildcard $(addsuffix /src,$(PACKAGES)))
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
MANIFESTS := pyproject.toml constraints.txt $(PACKAGES:%=%/pyproject.toml)

BIN := .venv/bin
WORKSPACE := .venv/.installed
# The Celery of today, and the one before it.
CELERY := .venv-celery/.installed .venv-celery56/.installed
# What .venv was made for. Moved elsewhere, or with a package gone, it is made anew: editable installations are paths.
STATE := $(CURDIR) $(PACKAGES)
INSTALLED := $(file < $(WORKSPACE))
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# What the tests of this tree start for themselves. A server is asked for once a plugin that speaks to it is there.
SERVERS := postgresql mariadb
ifneq ($(wildcard plugins/*-redis/pyproject.toml),)
SERVERS += redis openssl
endif
ifneq ($(wildcard plugins/*-amqp/pyproject.toml),)
SERVERS += rabbitmq
endif

# pyproject.toml tells uv to trust the system's certificates, as behind a company proxy one must.
# A machine that has none gets uv's own instead.
ifeq ($(wildcard /etc/ssl/certs/*.pem /etc/ssl/certs/*.crt /etc/pki/tls/certs/*.crt /etc/ssl/*.pem),)
export UV_SYSTEM_CERTS := false
endif

# Its advertisement for a successor.
export NO_MKDOCS_2_WARNING := 1

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: reference help stale demo test faults check format bench docs dist release servers constraints clean distclean

help:
	@echo 'make demo | test | faults SEEDS=30 | check | format | bench | docs | dist | clean | distclean'
	@echo 'make release PLUGIN=kern-broker-sql [TAG=kern-broker-sql-v0.1.0]'
	@echo 'make constraints    newest versions of everything, pinned anew'

# Environments -------------------------------------------------------------------------------------------------------

ifneq ($(INSTALLED),$(STATE))
$(WORKSPACE): stale
endif
stale:

$(WORKSPACE): $(MANIFESTS) tools/bootstrap.sh tools/install.py tools/workspace.py
	$(if $(filter-out $(STATE),$(INSTALLED)),rm -rf .venv)
	PYTHON='$(PYTHON)' sh tools/bootstrap.sh .venv
	$(BIN)/python -m tools.install --group dev
	@echo '$(STATE)' >$@

# Further dependency groups of pyproject.toml, in the same environment: .venv/.installed-docs, .venv/.installed-bench
.venv/.installed-%: $(WORKSPACE)
	$(BIN)/python -m tools.install --group dev --group $*
	@touch $@

# Environments with nothing of kern in them: .venv-celery is what tools/environments/celery.txt lists, and so on.
.venv-%/.installed: tools/environments/%.txt | $(WORKSPACE)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-$*
	$(BIN)/uv pip install --quiet --python .venv-$*/bin/python --requirement $<
	@touch $@

servers:
	@bash tools/servers.sh $(SERVERS)

# Work ---------------------------------------------------------------------------------------------------------------

demo: $(WORKSPACE)
	$(BIN)/python -m demo

test: $(WORKSPACE) $(CELERY) servers
	$(PYTEST) $(ARGS)

faults: $(WORKSPACE) $(CELERY) servers
	$(PYTEST) tests/faults --seeds $(SEEDS) --faults-table docs/reference/faults.md $(ARGS)

check: $(WORKSPACE) .venv/.installed-docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(subst $(SPACE),:,$(SOURCES)) $(BIN)/mypy $(SOURCES)
	MYPYPATH=$(subst $(SPACE),:,$(SOURCES)) $(BIN)/mypy tools conftest.py tests/architecture tests/docs demo benchmarks
	$(PYTEST) tests/architecture $(ARGS)
	$(BIN)/python -m mkdocs build --strict --quiet --site-dir site
	$(BIN)/uv pip check --python $(BIN)/python
	$(BIN)/python -m tools.check_wheels

format: $(WORKSPACE)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(WORKSPACE) $(CELERY) .venv-celery-tuned/.installed .venv/.installed-bench servers
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(WORKSPACE) .venv/.installed-docs
	$(BIN)/python -m mkdocs build --strict --site-dir site
	$(BIN)/python -m pytest tests/docs/test_links.py $(ARGS)

dist: $(WORKSPACE)
	$(BIN)/python -m tools.build dist

# Publishes nothing: it leaves in dist/ what may be published.
release: $(WORKSPACE) servers
	@test -n '$(PLUGIN)' || { echo 'usage: make release PLUGIN=kern-broker-sql [TAG=kern-broker-sql-v0.1.0]' >&2; exit 2; }
	$(BIN)/python -m tools.release '$(PLUGIN)' $(if $(TAG),--tag '$(TAG)')

reference: $(WORKSPACE)
	$(BIN)/python -m tools.reference

constraints: $(WORKSPACE)
	$(BIN)/python -m tools.install --group dev --group docs --group bench --upgrade
	$(BIN)/python -m tools.install --freeze constraints.txt

clean:
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find core plugins tests tools benchmarks demo -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf .venv .venv-*
