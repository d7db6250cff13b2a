"""Check, run, resume, record, sweep, reproduce: everything around a model, its data and its task."""
