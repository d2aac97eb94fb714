"""One proxy with LitGPT: train_litgpt.py MIXTURE OUT DATA (see litgpt.md)."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset, TokensLoader
from litgpt import GPT, Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.pretrain import setup
from litgpt.utils import chunked_cross_entropy

MODEL = os.environ.get("MODEL", "pythia-31m")
TOKENS = int(os.environ.get("TOKENS", "200_000_000"))  # of one proxy
SEQUENCE = int(os.environ.get("SEQUENCE", "1024"))
BATCH = int(os.environ.get("BATCH", "64"))  # sequences
VALIDATION = 100  # batches of 8 sequences per domain


def blocks(folder: str, length: int, *, shuffle: bool, seed: int = 0) -> StreamingDataset:
    """Tokens that `litdata.optimize` wrote, in blocks of a sequence and its next token."""
    return StreamingDataset(folder, item_loader=TokensLoader(block_size=length + 1), shuffle=shuffle, drop_last=shuffle, seed=seed)


@dataclass
class Mixture(DataModule):
    """Draws each block's domain by the mixture's weights."""

    data: str
    weights: dict[str, float]
    seed: int
    batch_size: int = field(init=False, default=1)
    length: int = field(init=False, default=SEQUENCE)

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        """LitGPT says how large its batches are."""
        self.batch_size, self.length = batch_size, max_seq_length or SEQUENCE

    def train_dataloader(self) -> StreamingDataLoader:
        """Blocks of all domains."""
        domains = [blocks(f"{self.data}/{name}/train", self.length, shuffle=True, seed=self.seed) for name in self.weights]
        mixed = CombinedStreamingDataset(domains, seed=self.seed, weights=list(self.weights.values()), iterate_over_all=False)
        return StreamingDataLoader(mixed, batch_size=self.batch_size, num_workers=1, drop_last=True)

    def val_dataloader(self) -> StreamingDataLoader:
        """LitGPT wants one; the losses that count are measured below."""
        name = next(iter(self.weights))
        return StreamingDataLoader(blocks(f"{self.data}/{name}/validation", self.length, shuffle=False), batch_size=self.batch_size)


@torch.no_grad()
def loss_on(model: GPT, folder: str, device: str) -> float:
    """Mean cross-entropy, nats per token, on the first blocks of a validation set."""
    total, batches = 0.0, 0
    for batch in StreamingDataLoader(blocks(folder, SEQUENCE, shuffle=False), batch_size=8):
        tokens = batch.to(device).long()
        total += float(chunked_cross_entropy(model(tokens[:, :-1]), tokens[:, 1:].contiguous()))
        batches += 1
        if batches == VALIDATION:
            break
    return total / batches


def main(mixture_file: str, out: str, data: str) -> None:
    """Train, then measure every domain's loss, also of those that this mixture leaves out."""
    told = json.loads(Path(mixture_file).read_text())
    weights = {name: weight for name, weight in told["weights"].items() if weight > 0}
    config = Config.from_name(MODEL, block_size=SEQUENCE)
    run = Path(out, "run")
    sys.argv[1:] = [MODEL]  # LitGPT saves its settings by parsing the command line as its own
    setup(
        MODEL,
        model_config=config,
        out_dir=run,
        data=Mixture(data, weights, told["data_seed"] % 2**31),
        train=TrainArgs(
            global_batch_size=BATCH,
            micro_batch_size=min(BATCH, 16),
            max_tokens=TOKENS,
            max_norm=1.0,
            lr_warmup_steps=100,
            min_lr=1e-4,
            save_interval=1000,
        ),
        eval=EvalArgs(interval=10**9, max_iters=2, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.95]}},
        resume="auto",  # of an attempt that was interrupted
        devices=1,
        logger_name="csv",
        seed=told["seed"],
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT(config).to(device).eval()
    model.load_state_dict(torch.load(run / "final" / "lit_model.pth", map_location=device, weights_only=True)["model"])
    losses = {name: loss_on(model, f"{data}/{name}/validation", device) for name in told["weights"]}
    Path(out, "metrics.json").write_text(json.dumps({"losses": losses, "tokens": TOKENS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
