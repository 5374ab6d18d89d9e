"""Training and testing by the stock tools: checks before a run, what it prints, when it stops."""
