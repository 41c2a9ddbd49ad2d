"""One runner a stage. Runners share nothing but the registry; `python -m rlhf.stages RUN STAGE` runs one of them."""
