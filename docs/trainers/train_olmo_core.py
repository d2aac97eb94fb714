"""One proxy with OLMo-core: train_olmo_core.py MIXTURE OUT DATA (see olmo-core.md)."""

import json
import os
import sys
from pathlib import Path

import torch
from olmo_core.data import NumpyDataLoaderConfig, NumpyFSLDatasetConfig, NumpyPaddedFSLDatasetConfig, TokenizerConfig
from olmo_core.data.source_mixture import SourceMixtureConfig, SourceMixtureDatasetConfig, SourceMixtureList
from olmo_core.nn.transformer import TransformerConfig
from olmo_core.optim import AdamWConfig, CosWithWarmup
from olmo_core.train import Duration, TrainerConfig, prepare_training_environment, teardown_training_environment
from olmo_core.train.callbacks import CheckpointerCallback, LMEvaluatorCallbackConfig, MetricSaverCallback
from olmo_core.train.train_module import TransformerTrainModuleConfig
from olmo_core.utils import seed_all

TOKENS = int(os.environ.get("TOKENS", "200_000_000"))  # of one proxy
SEQUENCE = int(os.environ.get("SEQUENCE", "1024"))
BATCH = 64 * SEQUENCE  # tokens
EPOCHS = 4.0  # a domain may be repeated so often
MODEL = os.environ.get("MODEL", "olmo2_30M")  # a factory of TransformerConfig


def main(mixture_file: str, out: str, data: str) -> None:
    """Train and evaluate, in every process of torchrun; the first writes the losses."""
    told = json.loads(Path(mixture_file).read_text())
    weights = {name: weight for name, weight in told["weights"].items() if weight > 0}  # a ratio must be positive
    tokenizer, work = TokenizerConfig.gpt2(), f"{out}/cache"
    prepare_training_environment(backend=None if torch.cuda.is_available() else "gloo")
    seed_all(told["seed"])

    # The mixture: each domain's weight is its share of the training tokens.
    sources = [
        SourceMixtureConfig(source_name=name, target_ratio=weight, paths=[f"{data}/{name}/train*.npy"], max_repetition_ratio=EPOCHS)
        for name, weight in weights.items()
    ]
    mixed = SourceMixtureDatasetConfig(
        source_list=SourceMixtureList(sources=sources), requested_tokens=TOKENS, global_batch_size=BATCH, seed=told["data_seed"]
    )
    dataset = NumpyFSLDatasetConfig.from_src_mix(mixed, sequence_length=SEQUENCE, tokenizer=tokenizer, work_dir=work)

    # Validation text of every domain, also of those that this mixture leaves out: one label, and so one loss, each.
    names = list(told["weights"])
    validation = NumpyPaddedFSLDatasetConfig(
        paths=[f"{data}/{name}/validation.npy" for name in names],
        metadata=[{"label": name} for name in names],
        sequence_length=SEQUENCE,
        tokenizer=tokenizer,
        work_dir=work,
    )
    trainer = (
        TrainerConfig(save_folder=f"{out}/run", save_overwrite=True, metrics_collect_interval=10, max_duration=Duration.epochs(1))
        .with_callback("checkpointer", CheckpointerCallback(save_interval=1000))
        .with_callback("evaluator", LMEvaluatorCallbackConfig(eval_dataset=validation, eval_interval=None, eval_on_finish=True))
        .with_callback("metrics", MetricSaverCallback())
    )
    module = TransformerTrainModuleConfig(
        rank_microbatch_size=16 * SEQUENCE,
        max_sequence_length=SEQUENCE,
        optim=AdamWConfig(lr=1e-3),
        scheduler=CosWithWarmup(warmup_steps=100),
        max_grad_norm=1.0,
        compile_model=torch.cuda.is_available(),
    )
    model = getattr(TransformerConfig, MODEL)(vocab_size=tokenizer.padded_vocab_size()).build(init_device="meta")
    train_module = module.build(model)
    loader = NumpyDataLoaderConfig(global_batch_size=BATCH, seed=told["data_seed"], num_workers=2).build(
        dataset.build(), dp_process_group=train_module.dp_process_group
    )
    built = trainer.build(train_module, loader)
    built.maybe_load_checkpoint()  # of an attempt that was interrupted
    built.fit()

    if int(os.environ.get("RANK", "0")) == 0:
        measured = json.loads(Path(out, "run", "metrics.json").read_text())
        losses = {name: measured[f"eval/lm/{name}/CE loss"] for name in names}
        Path(out, "metrics.json").write_text(json.dumps({"losses": losses, "tokens": TOKENS}))
    teardown_training_environment()


if __name__ == "__main__":
    main(*sys.argv[1:])
