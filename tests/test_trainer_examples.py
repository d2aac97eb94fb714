"""The worked examples of docs/trainers: each page's command, run as a search would, against a stand-in for its trainer.

A stand-in records what it is given and leaves what the trainer leaves. So this shows that weights arrive with all digits, and that
losses come back under their names; not that the trainer's options are still what they were.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import RunnerConfig
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.command import CommandJob, CommandRunner, run_command_job
from regmix_active.proxy.job import read_results

PAGES = Path(__file__).parents[1] / "docs" / "trainers"
WEIGHTS = {"books": 0.1 + 0.2, "code": 1 - (0.1 + 0.2), "web": 0.0}
TRAINED = {name: weight for name, weight in WEIGHTS.items() if weight}
VOCABULARY = 50

TORCHRUN = """
import json, os, runpy, sys
from pathlib import Path
here = Path(os.environ["RECORDS"])
arguments = sys.argv[1:]
assert arguments[:3] == ["--standalone", "--nproc-per-node", "1"], arguments
script, given = Path(arguments[3]), arguments[4:]
(here / f"{script.stem}.json").write_text(json.dumps(given))
if script.name == "pretrain_gpt.py":
    for step, low in ((1000, 4.0), (2000, 2.5)):
        print(f" [2026-01-01] iteration {step}/ 2000 | lm loss: 2.0E+00 |")
        for i in range(3):
            print("-" * 80)
            losses = f"lm loss value: {low + i:.6E} | lm loss PPL: 9.9E+01 | "
            print(f" validation-{i} loss at iteration {step} on validation set | {losses}")
elif script.name == "run_train.py":
    import yaml
    config = yaml.safe_load(Path(given[1]).read_text())
    (here / "config.json").write_text(json.dumps(config))
    Path(config["checkpoints"]["checkpoints_path"], "latest.txt").write_text(str(config["tokens"]["train_steps"]))
elif script.name == "convert_nanotron_to_hf.py":
    Path(given[given.index("--save_path") + 1]).mkdir()
else:
    sys.argv = [str(script), *given]
    runpy.run_path(str(script), run_name="__main__")
"""

LITGPT = {
    "litdata.py": """
import numpy as np, torch
class TokensLoader:
    def __init__(self, block_size): self.length = block_size
class StreamingDataset:
    def __init__(self, folder, item_loader, shuffle, drop_last, seed):
        tokens, length = np.load(folder + "/tokens.npy"), item_loader.length
        self.folder, self.blocks = folder, tokens[: len(tokens) // length * length].reshape(-1, length)
class CombinedStreamingDataset:
    def __init__(self, datasets, seed, weights, iterate_over_all):
        assert not iterate_over_all
        self.seen = {"folders": [one.folder for one in datasets], "weights": weights, "seed": seed}
class StreamingDataLoader:
    def __init__(self, dataset, batch_size, num_workers=0, drop_last=False): self.dataset, self.size = dataset, batch_size
    def __iter__(self):
        blocks = torch.from_numpy(self.dataset.blocks)
        return iter(blocks.split(self.size))
""",
    "litgpt/__init__.py": """
import torch
class Config:
    @classmethod
    def from_name(cls, name, block_size): return cls()
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.ones(50))
    def forward(self, tokens): return self.logits.expand(*tokens.shape, 50)
""",
    "litgpt/args.py": "from types import SimpleNamespace as TrainArgs, SimpleNamespace as EvalArgs",
    "litgpt/data.py": "class DataModule: pass",
    "litgpt/utils.py": """
import torch
def chunked_cross_entropy(logits, targets): return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
""",
    "litgpt/pretrain.py": """
import json, os, torch
from pathlib import Path
from litgpt import GPT
def setup(model_name, *, model_config, out_dir, data, train, seed, **more):
    data.connect(tokenizer=None, batch_size=train.micro_batch_size, max_seq_length=1024)
    assert len(list(data.val_dataloader())) > 0
    record = {**data.train_dataloader().dataset.seen, "init_seed": seed, "model": model_name}
    Path(os.environ["RECORDS"], "litgpt.json").write_text(json.dumps(record))
    (out_dir / "final").mkdir(parents=True)
    torch.save({"model": {"logits": torch.zeros(50)}}, out_dir / "final" / "lit_model.pth")
""",
}

TRANSFORMERS = """
import torch
from pathlib import Path
from types import SimpleNamespace
class AutoModelForCausalLM(torch.nn.Module):
    device = "cpu"
    @classmethod
    def from_pretrained(cls, folder):
        assert Path(folder).is_dir()
        return cls()
    def forward(self, input_ids, labels):
        assert input_ids.shape == (1, 16)
        return SimpleNamespace(loss=torch.tensor(float(labels[0, 0] == 0)))
"""

OLMO = """
import json, os, sys, types
from pathlib import Path
class Any:
    def __init__(self, *given, **named): self.__dict__.update(named)
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return lambda *given, **named: Any()
class Mixed(Any):
    @classmethod
    def from_src_mix(cls, mixture, **named):
        sources = {one.source_name: [one.target_ratio, *one.paths] for one in mixture.source_list.sources}
        seen = {"sources": sources, "tokens": mixture.requested_tokens, "seed": mixture.seed}
        Path(os.environ["RECORDS"], "olmo.json").write_text(json.dumps(seen))
        return cls()
class Trainer(Any):
    callbacks = {}
    def with_callback(self, name, callback):
        self.callbacks[name] = callback
        return self
    def build(self, *given): return self
    def fit(self):
        validation = self.callbacks["evaluator"].eval_dataset
        run = Path(self.save_folder)
        run.mkdir()
        lengths = {one["label"]: len(path) for path, one in zip(validation.paths, validation.metadata)}
        losses = {f"eval/lm/{name}/CE loss": float(length) for name, length in lengths.items()}
        (run / "metrics.json").write_text(json.dumps({"train/CE loss": 1.0, **losses}))
class Factory:
    def __getattr__(self, name): return Any
parts = "data data.source_mixture nn nn.transformer optim train train.callbacks train.train_module utils"
for part in parts.split():
    module = types.ModuleType(f"olmo_core.{part}")
    names = {"NumpyFSLDatasetConfig": Mixed, "TrainerConfig": Trainer, "TransformerConfig": Factory(), "__path__": []}
    names |= {"TokenizerConfig": Any(), "Duration": Any()}
    module.__dict__.update(names)
    module.__getattr__ = lambda name: Any
    sys.modules[module.__name__] = module
"""


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stand-ins note what they are given; they are on the path, and validation tokens are below it."""
    bin_, modules = tmp_path / "bin", tmp_path / "modules"
    bin_.mkdir()
    for name, content in {
        **LITGPT,
        "olmo_core/__init__.py": OLMO,
        "transformers.py": TRANSFORMERS,
        "fake_torchrun.py": TORCHRUN,
    }.items():
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_text(content)
    for name, script in {"python": "", "python3": "", "torchrun": str(modules / "fake_torchrun.py")}.items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setenv("RECORDS", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in WEIGHTS:
        for part in ("train", "validation"):
            (tmp_path / "data" / name / part).mkdir(parents=True)
            np.save(tmp_path / "data" / name / part / "tokens.npy", np.arange(5000) % VOCABULARY)
        np.save(tmp_path / "data" / name / "validation.npy", np.arange(500) % VOCABULARY)
    (tmp_path / "base.yaml").write_text(
        "general: {project: x}\ncheckpoints: {checkpoint_interval: 9}\ntokens: {train_steps: 20, sequence_length: 16}\n"
        "tokenizer: {tokenizer_name_or_path: gpt2}\n"
    )
    return tmp_path


def page(name: str) -> dict[str, Any]:
    """The configuration on a page, which the schema must accept."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    config: dict[str, Any] = YAML(typ="safe").load(block)
    ExecutionConfig.model_validate(config["execution"])
    return config


def trained(name: str, records: Path) -> tuple[ProxyResult, CommandJob]:
    """What the page's command gives, with its folders replaced by ours."""
    runner = page(name)["runner"]
    runner["command"] = re.sub(r"/data/\w+", str(records / "data"), runner["command"]).replace(
        "base.yaml", str(records / "base.yaml")
    )
    settings = RunnerConfig.model_validate(runner)
    train = CommandRunner(settings, None, records / "jobs", PAGES)  # type: ignore[arg-type]
    assert train.domains == tuple(WEIGHTS)
    (job,) = train.jobs([ProxyRequest(0, np.array(list(WEIGHTS.values())), 2**32 - 1, 2**32 - 2)])
    (records / "jobs").mkdir()
    run_command_job(str(job.write(records / "jobs")), "cpu")
    (result,) = read_results(job.result_path(records / "jobs")) or []
    return result, job


def noted(records: Path, name: str) -> Any:
    return json.loads((records / f"{name}.json").read_text())


def test_litgpt(records: Path) -> None:
    result, _ = trained("litgpt", records)
    seen = noted(records, "litgpt")
    assert seen["weights"] == list(TRAINED.values())
    assert seen["folders"] == [str(records / "data" / name / "train") for name in TRAINED]
    assert (seen["init_seed"], seen["model"]) == (2**32 - 1, "pythia-31m")
    assert result.losses == pytest.approx(dict.fromkeys(WEIGHTS, math.log(VOCABULARY)), abs=1e-5)
    assert result.tokens == 200_000_000


def test_olmo_core(records: Path) -> None:
    result, _ = trained("olmo-core", records)
    seen = noted(records, "olmo")
    data = records / "data"
    assert seen["sources"] == {name: [weight, f"{data}/{name}/train*.npy"] for name, weight in TRAINED.items()}
    assert (seen["tokens"], seen["seed"]) == (200_000_000, 2**32 - 2)
    assert result.losses == {name: float(len(f"{data}/{name}/validation.npy")) for name in WEIGHTS}


def test_megatron(records: Path) -> None:
    result, _ = trained("megatron", records)
    given = noted(records, "pretrain_gpt")
    blend = given[given.index("--train-data-path") + 1 : given.index("--valid-data-path")]
    assert [float(weight) for weight in blend[::2]] == list(TRAINED.values())
    assert blend[1::2] == [f"{records}/data/{name}/train_text_document" for name in TRAINED]
    validation = given[given.index("--valid-data-path") + 1 : given.index("--multiple-validation-sets")]
    assert validation == [f"{records}/data/{name}/validation_text_document" for name in WEIGHTS]
    assert int(given[given.index("--seed") + 1]) < 2**31
    assert result.losses == {"books": 2.5, "code": 3.5, "web": 4.5}, "the last of each"


def test_nanotron(records: Path) -> None:
    result, job = trained("nanotron", records)
    config = noted(records, "config")
    (stage,) = config["data_stages"]
    assert stage["data"]["dataset"] == {
        "dataset_folder": [f"{records}/data/{name}/train" for name in TRAINED],
        "dataset_weights": list(TRAINED.values()),
    }
    assert (stage["start_training_step"], stage["data"]["seed"], config["general"]["seed"]) == (1, 2**32 - 2, 2**32 - 1)
    assert config["checkpoints"]["resume_checkpoint_path"] is None
    assert config["checkpoints"]["checkpoints_path"] == str(records / "jobs" / job.key / "checkpoints")
    assert noted(records, "convert_nanotron_to_hf")[-2:] == ["--tokenizer_name", "gpt2"]
    assert result.losses == pytest.approx(dict.fromkeys(WEIGHTS, 2 / 31)), "the mean over whole blocks"


def test_a_trainer_that_fails_fails_the_script(records: Path) -> None:
    (records / "modules" / "fake_torchrun.py").write_text("import sys; print('out of memory'); sys.exit(7)")
    for name in ("megatron", "olmo-core", "nanotron"):
        with pytest.raises(Exception, match="out of memory"):
            trained(name, records)
        (records / "jobs").rename(records / f"jobs-{name}")


def test_pages_are_short() -> None:
    for path in PAGES.glob("*.md"):
        assert len(path.read_text().splitlines()) <= 60
