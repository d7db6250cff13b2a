"""Language models with one interface: tokens in, logits of the next token out."""

from .gpt import GPT
from .huggingface import HuggingFaceClassifier, HuggingFaceLM

__all__ = ["GPT", "HuggingFaceClassifier", "HuggingFaceLM"]
