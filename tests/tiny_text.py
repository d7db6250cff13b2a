"""A tokenizer trained on the spot, and data sets of a few rows in the hub's layout."""

import json
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CORPUS = [
    f"What is {a} + {b}? The answer is: {a + b} #### instruction response" for a in range(9) for b in range(9)
]


def save_tokenizer(folder: Path, **given) -> str:
    """A byte-level BPE of 300 tokens, saved as a folder of `transformers`; returns its name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", **given}
    special = {name: token for name, token in special.items() if token is not None}
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special.values()), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    if "bos_token" in special:
        from tokenizers.processors import TemplateProcessing

        begin = special["bos_token"]
        made.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
        )
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return str(folder)


def save_rows(path: Path, **columns) -> Path:
    """A table as parquet, jsonl or json, whichever the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path
