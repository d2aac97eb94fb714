"""The embedded corpus: real text that an installation of Python and of this package's dependencies carries.

Everything is read as text, parsed or compiled, never imported or executed, so reading it has no side effects and the same
installation always gives the same documents in the same order. Parts that slim installations leave out (``test``,
``idlelib``, ``tkinter``, ``lib2to3``) are not used, and a domain whose source is missing is left out of the corpus.

The modules of the standard library are dealt out: the code of one module is shown as source, as disassembly or as a syntax
tree, never as two of them, so that no domain's validation text is another domain's training text in a different form.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from regmix_active.corpus.python_source import (
    bare_code,
    comment_text,
    disassembly_lines,
    docstring_text,
    parse_module,
    syntax_lines,
)
from regmix_active.errors import CorpusError

DOMAIN_BYTES = 1_500_000
"""A domain ends with the document that reaches this size, bytes of UTF-8."""

DOCUMENT_BYTES = 20_000
"""Longer documents are cut short, so that one huge module cannot be most of a validation split."""

LEAST_DOMAIN_BYTES = 100_000
"""An optional domain with less text than this is left out, bytes of UTF-8."""

LEAST_DOMAINS = 6
"""The embedded corpus needs at least so many domains."""

_DOC_PACKAGES = ("numpy", "scipy", "sklearn", "torch")
_DISTRIBUTIONS = (
    *("alembic", "botorch", "click", "datasets", "filelock", "fsspec", "gpytorch", "huggingface-hub", "Jinja2", "lightgbm"),
    *("linear-operator", "Mako", "markdown-it-py", "mpmath", "networkx", "numpy", "optuna", "packaging", "pandas"),
    *("platformdirs", "psutil", "pyarrow", "pydantic", "Pygments", "python-dateutil", "PyYAML", "rich", "ruamel.yaml"),
    *("safetensors", "scikit-learn", "scipy", "setuptools", "SQLAlchemy", "sympy", "tokenizers", "torch", "tqdm"),
    *("typing-extensions", "tzdata"),
)
_SKIPPED_MODULES = frozenset(
    {"antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this", "tkinter"}
    | {"turtle", "turtledemo"}
)
_SKIPPED_FOLDERS = frozenset({"test", "tests", "__pycache__", "site-packages", "dist-packages"})
_HEADER_FOLDERS = ("ATen", "c10", "torch/csrc", "torch/headeronly")
_LEGAL_NAMES = ("licen", "copying", "notice", "copyright", "authors")


def embedded_documents() -> dict[str, list[str]]:
    """Read the embedded corpus.

    Returns:
        The documents of each domain that this installation has enough text for (``LEAST_DOMAIN_BYTES``), at most
        ``DOMAIN_BYTES`` each.

    Raises:
        CorpusError: If the installation carries fewer than ``LEAST_DOMAINS`` of them.
    """
    library = _library_texts()
    found: dict[str, list[str]] = {}
    for name in EMBEDDED_DOMAINS:
        documents = list(_capped(library[name] if name in library else _OTHER_DOMAINS[name]()))
        if sum(len(document.encode()) for document in documents) >= LEAST_DOMAIN_BYTES:
            found[name] = documents
    if len(found) < LEAST_DOMAINS:
        raise CorpusError(
            f"embedded corpus: this Python installation carries text for {len(found)} domains only "
            f"({', '.join(found) or 'none'}), {LEAST_DOMAINS} are needed; use a Python with its library sources in {_library()}, "
            "or name your own text under `corpus.domains`"
        )
    return found


def embedded_identity() -> dict[str, str]:
    """What decides the embedded text: versions of Python, of its Unicode tables and of the packages that are read."""
    identity = {"python": f"{platform.python_implementation()} {sys.version}", "unicode": unicodedata.unidata_version}
    for name in _DISTRIBUTIONS:
        try:
            identity[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            identity[name] = "absent"
    return identity


def _capped(documents: Iterable[str]) -> Iterator[str]:
    """Documents without empty ones, each cut to ``DOCUMENT_BYTES``, until they reach ``DOMAIN_BYTES``."""
    total = 0
    for document in documents:
        cut = _head(document.split("\n"))
        if cut.strip():
            yield cut
            total += len(cut.encode())
        if total >= DOMAIN_BYTES:
            return


def _head(lines: Iterable[str]) -> str:
    """The first ``DOCUMENT_BYTES`` of the lines."""
    head, total = [], 0
    for line in lines:
        head.append(line)
        total += len(line.encode(errors="replace")) + 1
        if total > DOCUMENT_BYTES:
            break
    # A docstring may hold half of a surrogate pair, which has no UTF-8.
    return "\n".join(head).encode(errors="replace")[:DOCUMENT_BYTES].decode(errors="ignore")


def _rank(name: str) -> int:
    """A fixed pseudo-random number of a name: orders files independently of the alphabet and deals out modules."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _ranked(folder: Path, paths: Iterator[Path]) -> list[tuple[str, Path]]:
    """Relative names with their paths in the fixed pseudo-random order, so that a cap takes a fair sample."""
    named = [(path.relative_to(folder).as_posix(), path) for path in paths]
    return sorted(named, key=lambda item: (_rank(item[0]), item[0]))


def _fresh_documents(texts: Iterable[str]) -> Iterator[str]:
    """The texts without paragraphs of which most lines came before, in documents of up to ``DOCUMENT_BYTES``."""
    seen: set[str] = set()
    for text in texts:
        paragraphs: list[str] = []
        size = 0
        for paragraph in text.replace("\r\n", "\n").split("\n\n"):
            lines = {" ".join(line.lower().split()) for line in paragraph.split("\n")} - {""}
            if 2 * len(lines & seen) >= len(lines):  # and blank ones
                continue
            seen |= lines
            if paragraphs and size + len(paragraph.encode()) > DOCUMENT_BYTES:
                yield "\n\n".join(paragraphs)
                paragraphs, size = [], 0
            paragraphs.append(paragraph.strip("\n"))
            size += len(paragraph.encode()) + 2
        yield "\n\n".join(paragraphs)


# --- The standard library ----------------------------------------------------------------------------------------------


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_modules() -> list[tuple[str, Path]]:
    folder = _library()

    def wanted(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        top = parts[0].removesuffix(".py")
        return (
            top in sys.stdlib_module_names
            and top not in _SKIPPED_MODULES
            and not top.startswith("_sysconfigdata")
            and _SKIPPED_FOLDERS.isdisjoint(parts)
        )

    return _ranked(folder, (path for path in folder.rglob("*.py") if wanted(path)))


def _library_texts() -> dict[str, list[str]]:
    """The five domains of the standard library, read in one pass; one document per module and domain."""
    texts: dict[str, list[str]] = {name: [] for name in _LIBRARY_DOMAINS}
    for name, path in _library_modules():
        if (parsed := parse_module(path)) is None:
            continue
        source, tree = parsed
        texts["docstrings"].append(docstring_text(tree))
        texts["comments"].append(comment_text(source))
        match _rank(name) % 4:
            case 0 | 1:
                texts["python_code"].append(bare_code(source, tree))
            case 2:
                texts["disassembly"].append(_head(disassembly_lines(source, name)))
            case 3:
                texts["syntax_trees"].append(_head(syntax_lines(tree)))
    return texts


def _language_reference() -> Iterator[str]:
    """The chapters of the language reference that ``help()`` prints; many of them repeat parts of others."""
    parsed = parse_module(_library() / "pydoc_data" / "topics.py")
    if parsed is None:
        return
    for node in parsed[1].body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            yield from _fresh_documents(topics[name] for name in sorted(topics, key=lambda name: (_rank(name), name)))


def _unicode_names() -> Iterator[str]:
    """The Unicode table in blocks of 256 code points, without the ideographs and syllables that are named by number."""
    for block in sorted(range(0, 0x32400, 256), key=lambda block: _rank(f"{block:X}")):
        lines = []
        for code in range(block, block + 256):
            character = chr(code)
            name = unicodedata.name(character, "")
            if name and not name.endswith(f"-{code:X}") and not name.startswith("HANGUL SYLLABLE"):
                fields = (unicodedata.category(character), unicodedata.bidirectional(character))
                lines.append(f"{code:04X};{name};{';'.join(fields)};{unicodedata.decomposition(character)}")
        yield "\n".join(lines)


# --- The dependencies --------------------------------------------------------------------------------------------------


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # a top-level name: found, not imported
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) if locations else None


def _library_docs() -> Iterator[str]:
    modules = []
    for package in _DOC_PACKAGES:
        folder = _package_folder(package)
        if folder is not None:
            paths = (path for path in folder.rglob("*.py") if _SKIPPED_FOLDERS.isdisjoint(path.parts[len(folder.parts) :]))
            modules += _ranked(folder.parent, paths)
    for _, path in sorted(modules, key=lambda item: (_rank(item[0]), item[0])):
        if (parsed := parse_module(path)) is not None:
            yield docstring_text(parsed[1])


def _cpp_headers() -> Iterator[str]:
    """Hand-written headers of torch; the thousands of generated ones under ATen/ops repeat each other."""
    folder = _package_folder("torch")
    if folder is None:
        return
    include = folder / "include"
    paths = (path for part in _HEADER_FOLDERS for path in (include / part).rglob("*.h") if path.parent.name != "ops")
    for _, path in _ranked(include, paths):
        yield path.read_text(encoding="utf-8", errors="replace")


def _licences_and_readmes() -> Iterator[str]:
    """Licences, notices and descriptions of the installed dependencies, which have many paragraphs in common."""
    yield from _fresh_documents(_distribution_texts())


def _distribution_texts() -> Iterator[str]:
    for name in _DISTRIBUTIONS:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield (distribution.read_text("METADATA") or "").partition("\n\n")[2]
        for file in sorted(distribution.files or [], key=str):
            legal = any(word in file.name.lower() for word in _LEGAL_NAMES)
            if legal and file.parts[0].endswith(".dist-info"):
                yield Path(str(file.locate())).read_text(encoding="utf-8", errors="replace")


_LIBRARY_DOMAINS = ("python_code", "docstrings", "comments", "disassembly", "syntax_trees")
_OTHER_DOMAINS: dict[str, Callable[[], Iterator[str]]] = {
    "language_reference": _language_reference,
    "unicode_names": _unicode_names,
    "library_docs": _library_docs,
    "cpp_headers": _cpp_headers,
    "licences_and_readmes": _licences_and_readmes,
}

EMBEDDED_DOMAINS = (*_LIBRARY_DOMAINS, *_OTHER_DOMAINS)
"""Names of all domains that an installation may carry, in the order of the corpus."""
