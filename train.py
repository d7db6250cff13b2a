"""`python train.py experiment=NAME key=value ...`: one run, installed or straight from a checkout.

The code of this checkout is what runs, even where another copy of eigenzoo is installed.
"""

import importlib.util
import sys
from pathlib import Path

if "eigenzoo" not in sys.modules:
    root = Path(__file__).resolve().parent / "src"
    spec = importlib.util.spec_from_file_location(
        "eigenzoo", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["eigenzoo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["eigenzoo"])

from eigenzoo.train import main  # noqa: E402

if __name__ == "__main__":
    main()
