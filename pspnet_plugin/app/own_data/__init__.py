"""From a user's folders to a config: what lies in them, a split, and what a config says of it."""
