"""The schema of a run: every key, its unit and its default, documented once.

The docstring under a field is its documentation everywhere: in ``regmix-active init``, in the errors and in the reference.
Unknown keys are refused; :mod:`regmix_active.config.load` adds the file, the line and the closest known key to the message.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.mixture import MixtureConfig
from regmix_active.config.recommend import RecommendConfig
from regmix_active.config.section import Positive, Section, Share, check_names
from regmix_active.config.target import Targets, TargetSpec


class DomainConfig(Section):
    """One pool of text whose share of the training tokens is to be chosen."""

    path: str | tuple[str, ...] | None = None
    """Files, globs or folders (.jsonl, .json, .txt, .md, .parquet, .csv, also .gz), relative to the configuration file."""

    dataset: str | None = None
    """Instead of `path`: a dataset of the Hugging Face hub, loaded with `datasets.load_dataset` in streaming mode."""

    subset: str | None = None
    """Configuration name of the hub dataset."""

    split: str = "train"
    """Split of the hub dataset."""

    text_key: str = "text"
    """Field (jsonl, csv, parquet, hub) that holds a document's text."""

    natural_share: Share | None = None
    """Share of this domain in the mixture you would use today; all domains or none (default: shares of the token counts)."""

    max_documents: Positive | None = None
    """Read at most so many documents."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("needs exactly one of `path` (your files) and `dataset` (a hub dataset)")
        return self


class TokenizerConfig(Section):
    """How text becomes tokens."""

    vocab_size: Annotated[int, Field(ge=300, le=65_535)] = 1024
    """Vocabulary of the byte-level BPE that is trained on equal shares of all domains."""

    file: str | None = None
    """Instead of training one: a `tokenizer.json` of the `tokenizers` library, relative to the configuration file."""

    proxy_vocab_size: Annotated[int, Field(ge=300, le=65_535)] | None = None
    """With `file`, the tokenizer of the model that the mixture is for: proxies train on a BPE of so many tokens instead, which is
    trained on the same text. Weights remain shares of the tokens of `file`; a small vocabulary makes small proxies much faster."""

    @model_validator(mode="after")
    def _two_tokenizers(self) -> Self:
        if self.proxy_vocab_size is not None and self.file is None:
            raise ValueError(
                "proxy_vocab_size is for a tokenizer of your own: add `file`, or set `vocab_size` to the size that you want instead"
            )
        return self


class CorpusConfig(Section):
    """The text: which domains, how it is split and tokenised."""

    domains: dict[str, DomainConfig] | None = None
    """Your domains by name; leave out for the embedded corpus (text that comes with every Python installation)."""

    tokenizer: TokenizerConfig = TokenizerConfig()

    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of each domain's text held out for validation: whole documents, or the end of each where there are few."""

    max_document_bytes: Annotated[int, Field(ge=256)] = 20_000
    """Longer documents are cut into pieces of at most this size; the pieces stay on one side of the split."""

    on_bad_line: Literal["error", "skip"] = "error"
    """What to do with a broken or non-UTF-8 line: stop and name it, or skip, count and report."""

    @field_validator("domains")
    @classmethod
    def _domains(cls, domains: dict[str, DomainConfig] | None) -> dict[str, DomainConfig] | None:
        if domains is None:
            return None
        if len(domains) < 2:
            raise ValueError("a mixture needs at least two domains")
        check_names(domains)
        shares = [domain.natural_share for domain in domains.values()]
        given = [share for share in shares if share is not None]
        if given and len(given) < len(shares):
            missing = ", ".join(name for name, domain in domains.items() if domain.natural_share is None)
            raise ValueError(f"natural_share is given for some domains only; add it for {missing}, or leave it out everywhere")
        if given and abs(sum(given) - 1) > 1e-3:
            raise ValueError(f"the natural shares sum to {sum(given):.6g}, not to 1; divide each by {sum(given):.6g}")
        return domains


class ProxyConfig(Section):
    """One proxy: a small Llama-style decoder and its training."""

    layers: Positive = 1
    """Decoder layers."""

    width: Positive = 32
    """Model width (embedding size)."""

    heads: Positive = 2
    """Attention heads; divides `width` into even head sizes."""

    kv_heads: Positive | None = None
    """Heads of keys and values, each shared by a group of attention heads (grouped-query attention); default: one per head."""

    ffn: Positive = 96
    """Hidden size of the SwiGLU feed-forward layer."""

    tied_embeddings: bool = True
    """Use the embedding as the output head, too. Llama-like models of billions of parameters do not."""

    rotary_base: Annotated[float, Field(gt=1)] = 10_000.0
    """Base of the rotary positions."""

    hf: str | None = None
    """Instead of the decoder above: a causal language model of `transformers`, by the hub name or the folder of its configuration,
    trained from scratch (`pip install regmix-active[hf]`). Its shape replaces the keys above; it trains one proxy at a time."""

    context: Annotated[int, Field(ge=8)] = 64
    """Tokens in a training block."""

    batch_size: Positive = 8
    """Blocks in one optimiser step."""

    tokens: Positive = 400_000
    """Training tokens of one proxy."""

    embedding_std: Annotated[float, Field(gt=0)] = 0.25
    """Standard deviation of the initial embedding, which is also the output head where they are tied. Short trainings at a high
    learning rate want it large: at the customary 0.02 the default proxy ends 0.2 nats higher, and four times as noisy between
    seeds."""

    learning_rate: Annotated[float, Field(gt=0)] = 1.6e-2
    """Peak learning rate (AdamW)."""

    final_learning_rate: Share = 0.1
    """Learning rate at the end of the cosine decay, as a share of the peak."""

    warmup: Share = 0.05
    """Share of the steps with linear warm-up."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW weight decay, on matrices only."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW decay of the first moment."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW decay of the second moment."""

    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm at which one proxy's gradient is clipped."""

    validation_tokens: Positive = 4_096
    """Validation tokens per domain that every proxy is scored on (the domain's own number if it has fewer)."""

    common_random_numbers: bool = True
    """Train all proxies of a study from the same initial weights and block order, so that their losses differ by mixture only."""

    domain_draws: Literal["low-discrepancy", "independent"] = "low-discrepancy"
    """How blocks draw their domains: spread as evenly as the mixture allows, or independently, as most data loaders do."""

    curve: Annotated[int, Field(ge=0, le=16)] = 3
    """Points of the learning curve besides the end: losses after a half, a quarter, an eighth ... of the steps, on an eighth of the
    validation tokens."""

    trunk_tokens: Annotated[int, Field(ge=0)] = 0
    """Train one shared trunk on the uniform mixture for so many tokens first, and start every proxy from it; 0: from scratch."""

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads}): each serves a group of heads")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 x heads ({2 * self.heads}): rotary heads have even size")
        if self.tokens < self.context * self.batch_size:
            raise ValueError(f"tokens ({self.tokens}) is less than one step of batch_size x context tokens")
        return self


class RunnerConfig(Section):
    """Your own trainer instead of the built-in proxies: a command that trains one mixture and writes its losses."""

    command: str | None = None
    """Command line, run once per proxy by the shell. `{mixture}` is a JSON file with weights and
    seeds, `{out}` a folder of the proxy's own in which the command leaves `metrics.json` (losses by name), `{seed}` and `{device}`
    say the rest. Leave out for the built-in proxies; with it, `corpus` and `proxy` are not used (but `proxy.tokens`, with
    `mixture.match_repetition`)."""

    folder: str | None = None
    """Folder that the command runs in; default: the configuration's."""

    domains: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Your domains, each with its number of tokens (or its share: only the proportions count)."""

    losses: tuple[str, ...] = ()
    """Losses that `metrics.json` must hold; default: one per domain."""

    facts: dict[str, str | int | float] = Field(default_factory=dict)
    """What else the losses depend on, such as `{model: 30M, data: v3}`: a study with other facts is refused, not continued."""

    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    """A command that takes longer is ended and counts as failed; default: `execution.deadline_minutes` alone."""

    @field_validator("domains")
    @classmethod
    def _domains(cls, domains: dict[str, float]) -> dict[str, float]:
        check_names(domains)
        return domains

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.command is not None and len(self.domains) < 2:
            raise ValueError("command needs `domains`: at least two names with their tokens, such as {books: 4.1e9, code: 2.5e9}")
        if self.command is not None and ("{mixture}" not in self.command or "{out}" not in self.command):
            raise ValueError("command must name {mixture} and {out}, such as: ./train.sh {mixture} {out}")
        return self


class SearchConfig(Section):
    """The loop: how many proxies, and who chooses them."""

    budget: Positive = 64
    """Completed proxy runs in the whole study, over all restarts."""

    initial: Annotated[int, Field(ge=2)] = 16
    """Proxies in the initial batch, which is chosen before any loss is known."""

    initial_design: Literal["regmix", "maximin", "d-optimal"] = "d-optimal"
    """How it is chosen: `d-optimal` (of RegMix's random mixtures and others, those that determine a quadratic best), `maximin`
    (those far from each other) or `regmix` (random, as RegMix does). The first two begin with the natural mixture."""

    batch_size: Positive | Literal["auto"] = "auto"
    """Proxies per round; `auto`: a quarter of the runs so far, between 8 and 64."""

    strategy: str = "variance-reduction"
    """A name from `regmix-active strategies`, or `path/to/file.py:Name` (code that runs because you name it here)."""

    strategy_options: dict[str, float | int | str | bool] = Field(default_factory=dict)
    """Fields of the strategy."""

    surrogate: str = "gp"
    """What predicts losses from mixtures: `gp` (Gaussian process), `lightgbm` (RegMix's), `log-linear` (a data mixing law),
    `ensemble` (all three, by held-out likelihood) or `auto` (whichever predicts held-out proxies best, and why)."""

    replicates: Positive = 1
    """Proxies per mixture, each with seeds of its own; all of them count towards the budget."""

    noise_runs: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Mixtures of the initial batch that are trained once more with a second seed, which tells what a seed does to losses; they
    count towards the budget. `auto`: one per 32 proxies of the budget, at most 4, and none below a budget of 64."""

    stop_when: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """End the search before its budget when all further proxies are expected to improve the answer by less than this, in nats per
    token; looked at once a round after the initial batch. Default: never."""

    pruner: Literal["none", "median", "asha", "hyperband"] = "none"
    """After the initial design, end hopeless proxies early, by one of Optuna's pruners at the points of the learning curve
    (`proxy.curve`). They count towards the budget, with the losses that finished proxies of such a curve ended at."""

    asynchronous: bool = False
    """Propose a proxy as soon as a worker is free, with what is known then, instead of in rounds. Keeps every device busy, but what
    is proposed then depends on the order in which proxies end: another run need not repeat it."""

    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """End the search when more than this share of its last 20 proxies diverged or crashed, judged from the fifth on."""


class VerifyConfig(Section):
    """The proof: fresh trainings of the found mixture and of those it must beat."""

    seeds: Annotated[int, Field(ge=2)] = 8
    """Fresh seeds per mixture."""


class StudyConfig(Section):
    """The memory: where every run is kept."""

    storage: str | None = None
    """Where the study is: `sqlite:///FILE`, `journal:///FILE` (an append-only file, also for network file systems), or
    `postgresql://USER@HOST/DATABASE`; default: SQLite in the run folder (`study.db`). No passwords: they belong in `~/.pgpass`,
    `PGPASSWORD` or `REGMIX_ACTIVE_STORAGE`."""


class RunConfig(Section):
    """Everything that one search needs. Every key has a default; an empty file is a valid configuration."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)] = "search"
    """Name of the study, and of its folder below `runs/`."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random in the study."""

    target: TargetSpec = "mean"
    """What is minimised: `mean` of all domain losses, or one of them by name, or weights over them, such as
    `{books: 2, code: 7/52}` (scaled to sum to one), or `{weights: mean, worst: true, excess_over: natural, limits: {all:
    {above_natural: 0.01, probability: 0.9}}}`: `worst` takes the largest loss instead of the sum, `excess_over` (`natural`, or
    losses by name) counts what is above references (with `relative: true` as shares of them), and `limits` bound other losses,
    `at_most` nats or `above_natural` by a share, with a probability."""

    targets: Targets = Field(default_factory=dict)
    """Two or more targets by name, each written as `target` is, such as `{books: books, all: mean}`: the search looks for the best
    trade-offs between them (by `hypervolume`, unless another strategy or options of one are set). The answer holds these, and
    recommends the most balanced one; `target` is then what proxies are listed by."""

    score_only: tuple[str, ...] = ()
    """Domains that every proxy is scored on but never trained on: text like that of the final use. Usually the target."""

    mixture: MixtureConfig = MixtureConfig()
    corpus: CorpusConfig = CorpusConfig()
    proxy: ProxyConfig = ProxyConfig()
    runner: RunnerConfig = RunnerConfig()
    search: SearchConfig = SearchConfig()
    recommend: RecommendConfig = RecommendConfig()
    verify: VerifyConfig = VerifyConfig()
    execution: ExecutionConfig = ExecutionConfig()
    study: StudyConfig = StudyConfig()
