"""Models as plain modules, one family per folder."""
