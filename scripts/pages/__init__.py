"""What scripts/make_docs.py writes, one page a file."""
