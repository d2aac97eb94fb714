"""One proxy with nanotron: train_nanotron.py MIXTURE OUT BASE DATA (see nanotron.md)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

NANOTRON = Path(os.environ.get("NANOTRON", "nanotron"))  # your checkout
GPUS = os.environ.get("GPUS", "1")
BLOCKS = 256  # sequences per domain that the loss is measured on


def torchrun(processes: str, *arguments: str) -> None:
    """Run a program of nanotron's; fails if it does."""
    environment = {**os.environ, "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    subprocess.run(["torchrun", "--standalone", "--nproc-per-node", processes, *arguments], check=True, env=environment)


def configured(base: str, told: dict, out: Path, data: str) -> dict:
    """Your configuration, with this mixture, these seeds and a folder of its own."""
    config = yaml.safe_load(Path(base).read_text())
    weights = {name: weight for name, weight in told["weights"].items() if weight > 0}
    dataset = {"dataset_folder": [f"{data}/{name}/train" for name in weights], "dataset_weights": list(weights.values())}
    data_args = {"dataset": dataset, "num_loading_workers": 1, "seed": told["data_seed"]}
    config["data_stages"] = [{"name": "proxy", "start_training_step": 1, "data": data_args}]
    config["general"] = {**config["general"], "run": out.name, "seed": told["seed"]}
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    resume = str(checkpoints) if (checkpoints / "latest.txt").exists() else None
    config["checkpoints"] = {
        **config["checkpoints"],
        "checkpoints_path": str(checkpoints),
        "resume_checkpoint_path": resume,
        "save_final_state": True,
    }
    return config


@torch.no_grad()
def loss_on(model: torch.nn.Module, tokens: np.ndarray, length: int) -> float:
    """Mean cross-entropy, nats per token, on the first blocks of a validation set."""
    count = min(BLOCKS, len(tokens) // length)
    blocks = torch.from_numpy(tokens[: count * length].astype(np.int64)).reshape(count, length).to(model.device)
    return float(np.mean([model(input_ids=block[None], labels=block[None]).loss.item() for block in blocks]))


def main(mixture_file: str, out_folder: str, base: str, data: str) -> None:
    """Train, convert to a model of transformers, and measure every domain's loss with that."""
    told, out = json.loads(Path(mixture_file).read_text()), Path(out_folder)
    config = configured(base, told, out, data)
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    steps, latest = config["tokens"]["train_steps"], out / "checkpoints" / "latest.txt"
    if not (latest.exists() and int(latest.read_text()) >= steps):  # else an earlier attempt finished this part
        torchrun(GPUS, str(NANOTRON / "run_train.py"), "--config-file", str(out / "config.yaml"))
    converter = str(NANOTRON / "examples" / "llama" / "convert_nanotron_to_hf.py")
    paths = ["--checkpoint_path", str(out / "checkpoints" / str(steps)), "--save_path", str(out / "hf")]
    torchrun("1", converter, *paths, "--tokenizer_name", config["tokenizer"]["tokenizer_name_or_path"])

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(out / "hf").to("cuda" if torch.cuda.is_available() else "cpu").eval()
    length = config["tokens"]["sequence_length"]
    losses = {name: loss_on(model, np.load(f"{data}/{name}/validation.npy"), length) for name in told["weights"]}
    (out / "metrics.json").write_text(json.dumps({"losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
