"""Layers point one way: errors, ops < models, optim, data < tasks < harness."""

import subprocess
import sys

import pytest
from source_tree import ROOT, Module, imports, modules

BELOW = {
    "errors": (),
    "ops": ("errors",),
    "models": ("errors", "ops"),
    "optim": ("errors", "ops"),
    "data": ("errors", "ops"),
    "testing": ("ops",),
    "tasks": ("errors", "ops", "models", "optim", "data", "testing"),
    "harness": ("errors", "ops", "models", "optim", "data", "tasks", "testing"),
    "train": ("harness", "errors"),
    "": ("harness",),
}
# Which library may be imported where.
ONLY = {
    "lightning": ("data", "tasks", "harness"), "hydra": ("harness",), "omegaconf": ("harness",),
    "torchmetrics": ("tasks", "harness"), "optuna": ("harness",), "datasets": ("data",), "sklearn": ("data", "tasks"),
    "rich": ("data", "harness"), "huggingface_hub": ("data", "harness"), "matplotlib": ("tasks", "harness"),
}  # fmt: skip


@pytest.mark.parametrize("module", modules(), ids=lambda m: m.name)
def test_layers(module: Module):
    assert module.layer in BELOW, f"{module.name}: a new folder needs a place in the layers"
    for name in imports(module):
        top, _, rest = name.partition(".")
        if top == "eigenzoo" and module.name != "eigenzoo.train":
            other = rest.split(".")[0]
            allowed = (module.layer, *BELOW[module.layer], "__version__")
            assert other in allowed, f"{module.name} imports {name}"
        assert module.layer in ONLY.get(top, (module.layer,)), f"{module.name} imports {name}"


def test_the_resolver_of_imports_sees_what_it_should():
    found = {
        name for module in modules() if module.name == "eigenzoo.harness.cli" for name in imports(module)
    }
    assert {
        "eigenzoo.__version__",
        "eigenzoo.harness.entry.guarded",
        "eigenzoo.data.hub",
        "argparse",
    } <= found


def test_models_have_no_other_dependency_than_torch():
    allowed = {"torch", "jaxtyping", "eigenzoo", "einops", "numpy", *sys.stdlib_module_names}
    for module in modules():
        if module.layer in ("ops", "models"):
            # irreps are e3nn's own objects, so that a layer drops into its networks
            more = {"e3nn"} if module.name.startswith("eigenzoo.models.equivariant") else set()
            if module.name.startswith("eigenzoo.models.adapters"):
                more = {"safetensors"}  # adapters have a file format of their own, and peft's
            if module.name == "eigenzoo.models.heads.equiangular":
                more = {"safetensors"}  # the file of vectors that `eigenzoo basis` makes
            if module.name in ("eigenzoo.ops.orthonormality", "eigenzoo.ops.quantisation"):
                more = {"scipy"}  # the assignment problem, and quantiles in float64
            if module.name == "eigenzoo.models.language.huggingface":
                more = {"transformers", "safetensors", "huggingface_hub"}
            assert {name.split(".")[0] for name in imports(module)} <= allowed | more, module.name


def test_another_name_for_the_package_is_refused():
    line = [sys.executable, "-c", "import src.models"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "this package is imported as 'eigenzoo', not as 'src': use `import eigenzoo`" in done.stderr


def test_no_child_of_src_hides_a_package():
    names = {path.stem for path in (ROOT / "src").iterdir() if not path.name.startswith("_")}
    assert not names & (set(sys.stdlib_module_names) | {"torch", "datasets", "peft", "lightning", "hydra"})
