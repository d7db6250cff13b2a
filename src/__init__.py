"""eigenzoo: structured layers as plain `nn.Module`s, with a harness that checks, runs, resumes and records.

Importing the package is cheap; torch is imported when a model is built or loaded.
"""

if __name__ != "eigenzoo":
    raise ImportError(f"this package is imported as 'eigenzoo', not as {__name__!r}: use `import eigenzoo`")

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "load"]


def __getattr__(name: str):
    if name in ("create_model", "list_models", "load"):
        from .harness import zoo

        return getattr(zoo, name)
    raise AttributeError(f"module 'eigenzoo' has no attribute {name!r}")
