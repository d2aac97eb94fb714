"""Text to token ids: a small byte-level BPE trained on the corpus itself, or a tokenizer of the user's.

Byte-level pair encoding after Sennrich et al. (arXiv 1508.07909) on bytes as in GPT-2; training and encoding are the
``tokenizers`` library's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from regmix_active.errors import CorpusError

END_OF_DOCUMENT = "<|endoftext|>"
"""Token after every document; added to a user's tokenizer that has none of the usual ones."""

_KNOWN_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[SEP]")
_PARALLELISM = "TOKENIZERS_PARALLELISM"


@contextmanager
def quiet_parallelism() -> Iterator[None]:
    """Keep the library on one thread while inside, unless ``TOKENIZERS_PARALLELISM`` says otherwise.

    Worker processes may be forked later, and the library warns about a fork after it has used threads. The variable is
    taken away again on leaving, so the user's environment stays as it was.
    """
    if _PARALLELISM in os.environ:
        yield
        return
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        os.environ.pop(_PARALLELISM, None)


class CorpusTokenizer:
    """A tokenizer with an end-of-document token that takes all text literally.

    Attributes:
        vocab_size: Number of token ids, the end of a document included.
        end: Token id after every document.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        end = next((token for token in _KNOWN_ENDS if token in vocabulary), END_OF_DOCUMENT)
        tokenizer.add_special_tokens([AddedToken(end, special=True)])  # keeps the id of one that is there
        tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside of a document is text, not an end
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.end = vocabulary[end]
        self.vocab_size = max(vocabulary.values()) + 1  # not the number of tokens: a tokenizer's ids may have gaps

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> CorpusTokenizer:
        """Train a byte-level BPE.

        Args:
            texts: Texts to train on.
            vocab_size: Token ids wanted, the 256 bytes and the end of a document included; little text may give fewer.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_DOCUMENT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> CorpusTokenizer:
        """Load a ``tokenizer.json`` of the ``tokenizers`` library.

        Raises:
            CorpusError: If the file is missing or no such tokenizer.
        """
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise CorpusError(f"{path}: cannot be read ({error.strerror}); correct `corpus.tokenizer.file`") from error
        except Exception as error:  # the library raises nothing narrower
            raise CorpusError(
                f"{path}: is no tokenizer of the `tokenizers` library ({error}); "
                "point `corpus.tokenizer.file` to a tokenizer.json, or leave it out to train a tokenizer"
            ) from error

    def to_json(self) -> str:
        """The tokenizer as the text of a ``tokenizer.json``."""
        return str(self._tokenizer.to_str())

    def encode(self, documents: Sequence[str]) -> list[int]:
        """Token ids of the documents, one after the other, each followed by the end-of-document token."""
        ids: list[int] = []
        for encoding in self._tokenizer.encode_batch_fast(documents, add_special_tokens=False):
            ids += encoding.ids
            ids.append(self.end)
        return ids
