"""`python train.py experiment=NAME key=value ...`: one run with the code of this checkout, installed or not."""

import importlib.util
import sys
from pathlib import Path

root = Path(__file__).resolve().parent / "src"
spec = importlib.util.spec_from_file_location(
    "eigenzoo", root / "__init__.py", submodule_search_locations=[str(root)]
)
assert spec is not None and spec.loader is not None
sys.modules["eigenzoo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["eigenzoo"])

if __name__ == "__main__":
    from eigenzoo.train import main

    main()
