"""Many random cases of one kind, each run by hand: ``python -m tests.campaigns.NAME COUNT``."""
