"""A small GPT: the decoder of the adapters' and of the compression's experiments.

Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2). With
the embeddings E of the tokens and P of the positions,

    h_0 = E[x] + P[0 .. L-1]
    h  <- h + O attention(Q n, K n, V n),  n = norm h      per head softmax(q k^T / sqrt(width)) v over past and present
    h  <- h + D gelu(U norm h)
    logits = H norm h

What differs here: the linear maps are six separate ones per block, `q`, `k`, `v`, `o`, `up`, `down`, so that each may
be adapted or factorised by name; they have no biases; the head H is not tied to E; every matrix begins as N(0, 0.02^2),
those that write to the residual path too; and there is no dropout.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..arguments import check_sizes

DEVIATION = 0.02  # of the initial matrices


class Cache:
    """Keys and values (batch, heads, length, width) of the positions that a block has read."""

    def __init__(self) -> None:
        self.past: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, these included."""
        if self.past is not None:
            key, value = torch.cat([self.past[0], key], 2), torch.cat([self.past[1], value], 2)
        self.past = key, value
        return self.past


class GPT(nn.Module):
    """Tokens (batch, length) to the logits of the next token, (batch, length, vocabulary).

    Args:
        vocabulary: number of tokens.
        context: the longest input.
        dim: features of a position.
        depth: blocks.
        heads: of the attention; must divide `dim`.
        hidden: features between `up` and `down`; None: 4 dim.

    Raises:
        ValueError: an argument out of range; in `forward`, an input that is longer than the context.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 64,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
    ):
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        check_sizes(vocabulary=vocabulary, context=context, dim=dim, depth=depth, heads=heads, hidden=hidden)
        if dim % heads:
            raise ValueError(f"heads={heads}: must divide dim={dim}")
        self.vocabulary, self.context = vocabulary, context
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=DEVIATION)

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Logits at every position, of the token that comes after it."""
        return self._read(x, 0, [None] * len(self.blocks))

    def _read(self, x: Tensor, start: int, caches: list[Cache] | list[None]) -> Tensor:
        """Logits of tokens that stand at the positions from `start` on, after those in the caches."""
        end = start + x.shape[1]
        if end > self.context:
            raise ValueError(f"the input has {end} positions, the model's context is {self.context}")
        h = self.tokens(x) + self.positions(torch.arange(start, end, device=x.device))
        for block, cache in zip(self.blocks, caches, strict=True):
            h = block(h, cache)
        return self.head(self.norm(h))

    @torch.no_grad()
    def generate(
        self, x: Int[Tensor, "batch length"], tokens: int, *, temperature: float = 0.0, seed: int = 0
    ) -> Int[Tensor, "batch total"]:
        """The prompt with `tokens` more tokens after it, one at a time; keys and values are kept from step to step.

        Args:
            x: the prompt, at least one token.
            temperature: 0 takes the likeliest token; otherwise drawn from softmax(logits / temperature).
            seed: of the draws, which are made on the CPU.

        Raises:
            ValueError: prompt and new tokens together are longer than the context, or an argument is out of range.
        """
        self._check_generation(x, tokens, temperature)
        caches, generator = [Cache() for _ in self.blocks], torch.Generator().manual_seed(seed)
        new, read = x, 0
        for _ in range(tokens):
            logits = self._read(new, read, caches)[:, -1]
            read += new.shape[1]
            new = choose(logits, temperature, generator).to(x)
            x = torch.cat([x, new], 1)
        return x

    def _check_generation(self, x: Tensor, tokens: int, temperature: float) -> None:
        check_sizes(tokens=tokens, length=x.shape[1])
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: must be 0 (the likeliest token) or more")
        if x.shape[1] + tokens > self.context:
            raise ValueError(
                f"a prompt of {x.shape[1]} and tokens={tokens} make {x.shape[1] + tokens} positions, the model's "
                f"context is {self.context}: shorten the prompt, or ask for fewer"
            )

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random tokens that fill the context."""
        return (torch.randint(self.vocabulary, (batch, self.context)),)


def choose(
    logits: Float[Tensor, "batch vocabulary"], temperature: float, generator: torch.Generator
) -> Int[Tensor, "batch 1"]:
    """The likeliest token where the temperature is 0, otherwise one drawn from softmax(logits / temperature)."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    chances = (logits.double().cpu() / temperature).softmax(-1)
    return torch.multinomial(chances, 1, generator=generator)


class Block(nn.Module):
    """Attention and a perceptron, each on the normalised input and added to it: (batch, length, dim) in and out.

    Args:
        dim: features.
        heads: of the attention.
        hidden: features between `up` and `down`.
    """

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(
        self, h: Float[Tensor, "batch length dim"], cache: Cache | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """With a cache, what came before is read from it: the whole prompt at first, then one position a time."""
        h = h + self.o(self._attend(self.norm_attention(h), cache))
        return h + self.down(F.gelu(self.up(self.norm_mlp(h))))

    def _attend(self, n: Tensor, cache: Cache | None) -> Tensor:
        query, key, value = (
            layer(n).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        causal = (
            cache is None or cache.past is None
        )  # after that a single position is read, which sees all of the past
        if cache is not None:
            key, value = cache.extend(key, value)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return y.transpose(1, 2).flatten(2)
