from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix_active.corpus.split import FEWEST_DOCUMENTS, cut_pieces, cut_tail, document_digest, split_documents

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)


@given(texts, st.integers(4, 100))
def test_pieces_join_to_the_document_and_are_small(text: str, most: int) -> None:
    pieces = cut_pieces(text, most)
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= most for piece in pieces)


def test_pieces_end_at_lines() -> None:
    pieces = cut_pieces("aaaa\nbbbb\ncccc\n", 11)
    assert pieces == ["aaaa\nbbbb\n", "cccc\n"]


@given(texts, st.floats(0.01, 0.49))
def test_tail_joins_to_the_document(text: str, share: float) -> None:
    head, tail = cut_tail(text, share)
    assert head + tail == text


def test_tail_has_the_wanted_share() -> None:
    head, tail = cut_tail("ä" * 1000, 0.1)
    assert (len(head), len(tail)) == (900, 100)
    head, tail = cut_tail("line\n" * 1000, 0.25)
    assert head == "line\n" * 750


def pool(count: int, seed: int, size: int = 100) -> list[tuple[bytes, int]]:
    sizes = np.random.default_rng(seed).integers(1, 2 * size, count)
    return [(document_digest(f"{seed}/{n}"), int(bytes_)) for n, bytes_ in enumerate(sizes)]


@given(st.integers(FEWEST_DOCUMENTS, 300), st.integers(0, 50), st.floats(0.06, 0.45))
def test_whole_documents_reach_the_share_in_any_order(count: int, seed: int, share: float) -> None:
    documents = pool(count, seed)
    split = split_documents({"a": documents}, share)
    assert not split.tail_domains
    assert split == split_documents({"a": documents[::-1]}, share)
    total = sum(size for _, size in documents)
    held = sum(size for digest, size in documents if digest in split.validation)
    assert 0 < held < total
    assert abs(held - share * total) <= max(size for _, size in documents)


def test_one_huge_document_does_not_take_a_side_alone() -> None:
    for seed in range(20):
        documents = [(document_digest(f"{seed}/{n}"), 100_000 if n == 0 else 1_000) for n in range(30)]
        split = split_documents({"a": documents}, 0.1)
        assert documents[0][0] not in split.validation
        assert split.validation


def test_a_document_has_one_side_in_all_domains() -> None:
    shared = pool(40, 1)
    domains = {"a": shared + pool(60, 2), "b": pool(300, 3) + shared[:20], "few": shared[:3] + pool(2, 4)}
    split = split_documents(domains, 0.2)
    assert split.tail_domains == {"few"}
    assert split.tails == {digest for digest, _ in domains["few"]}
    assert not split.tails & split.validation
    for digest, _ in shared:
        sides = split.sides(digest, "some text\n" * 10)
        assert "".join(sides) == "some text\n" * 10
        assert all(sides) == (digest in split.tails), "only documents of a small domain are cut"


@pytest.mark.parametrize("share", [0.001, 0.01])
def test_a_share_below_one_document_cuts_tails(share: float) -> None:
    documents = [(document_digest(str(n)), 1000) for n in range(12)]
    assert split_documents({"a": documents}, share).tail_domains == {"a"}


def test_digest_leaves_outer_blanks_aside() -> None:
    assert document_digest("text\n") == document_digest("  text")
    assert document_digest("te xt") != document_digest("text")
