"""QLoRA: low-rank adaptation of a weight that is stored in four or eight bits.

Dettmers, Pagnoni, Holtzman, Zettlemoyer, "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, arXiv 2305.14314.

    y = x Q^T + b + c (x A^T) B^T,    Q = dequantise(quantise(W)),  B = 0 at the start

The paper's claim: a pair that is trained on four bits of normal quantiles (NF4) reaches what it reaches on 16 bits.
Different here: the scales of the blocks stay in float32, where the paper quantises them too; no paged optimiser.
"""

from dataclasses import dataclass

from torch import Tensor

from ...ops.quantisation import BLOCK
from .lora import LoRA, LoRALayer
from .quantised import QuantisedLinear
from .quantised_start import check_quantisable, check_quantisation, quantised_layer
from .site import Site


@dataclass(frozen=True)
class QLoRA(LoRA):
    """`LoRA` on a base that is quantised when the adapter is put in.

    Args:
        bits: of the base, `nf4` or `int8`.
        block: number of weights that share a scale; even for `nf4`.

    Raises:
        ValueError: as `LoRA`; unknown bits, a block that does not suit them, the start `olora`; at a layer, one that
            is not linear or that is quantised already.
    """

    bits: str = "nf4"
    block: int = BLOCK

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantisation(self.bits, self.block)
        if self.init == "olora":
            raise ValueError(
                "init is 'olora', which changes the weight: with a quantised base use QPiSSA or LoftQ"
            )

    def build(self, site: Site) -> LoRALayer:
        check_quantisable(site)
        return super().build(site)

    def base(self, site: Site, matrix: Tensor | None) -> QuantisedLinear:
        return quantised_layer(site, matrix, kind=self.bits, block=self.block)
