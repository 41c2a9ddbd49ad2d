# Shortcuts; the scripts are what CI runs.
.PHONY: check test quickstart

check: ## lint, types, layers and tests
	scripts/test.sh

test: ## tests alone; make test ARGS="tests/unit -n 2"
	bash -ec '. scripts/environment.sh && python -m pytest $(or $(ARGS),-n 2)'

quickstart: ## from data to an aligned model
	scripts/quickstart.sh
