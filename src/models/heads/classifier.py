"""A backbone with a class head."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from .head import Head


class Classifier(nn.Module):
    """`head(backbone(x))`; the head is made for the width of the backbone's features and the number of classes.

    Args:
        backbone: a module with an attribute `dim`, the width of the features that it returns, (batch, dim).
        head: called as `head(dim, num_classes)`: a class of `eigenzoo.models.heads`, or a partial of one.
        dim_out: the number of classes.

    Raises:
        ValueError: what the head refuses.
    """

    def __init__(self, backbone: nn.Module, head: Callable[[int, int], Head], *, dim_out: int):
        super().__init__()
        self.backbone = backbone
        self.head = head(int(backbone.dim), dim_out)  # type: ignore[arg-type]

    @property
    def num_classes(self) -> int:
        """Of the head."""
        return self.head.num_classes

    def features(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """What the head sees."""
        return self.backbone(x)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        return self.head(self.backbone(x))

    def loss(
        self,
        x: Float[Tensor, "batch ..."],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        label_smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """The head's loss on the features of `x`, see `Head.loss`."""
        return self.head.loss(self.backbone(x), target, label_smoothing=label_smoothing)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles the backbone in place: `forward` and `loss` share it, and the head is the small rest."""
        self.backbone.compile(*args, **options)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Those of the backbone."""
        return self.backbone.example_inputs(batch)  # type: ignore[operator, no-any-return]
