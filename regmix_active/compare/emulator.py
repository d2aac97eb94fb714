"""A stand-in for training: neural networks fitted to recorded runs, which answer what any mixture's losses would have been.

A search can be replayed within a table of runs, but a recommendation is a mixture that nobody trained. The emulator supplies its
losses. It must not share its family with what it judges, or the search would be graded by its own prejudice: it is an ensemble
of multilayer perceptrons, while surrogates are Gaussian processes, trees and log-linear laws.

Every network sees the table without one fold of its mixtures, so that each run is predicted by networks that never saw it: the
held-out R² says how far the emulator can be trusted. Weights are shrunk towards zero as a Gaussian prior does whose strength
follows from an assumed share of noise in the losses; networks for several shares are trained, and each loss is answered by
those whose held-out errors are smallest. So clean losses of many runs and noisy metrics of few need no settings.

A search looks for the emulator's smallest values, and so for its mistakes. Three things keep holes out: tanh units level off where
there is no data; where the networks disagree more than they nearly ever do on recorded mixtures, the truth is taken to be worse
than their mean; and no loss falls far below the smallest recorded one (softly, by the distance between the smallest and the
lowest decile).

References:
    [1] Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, NeurIPS 2017.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regmix_active.corpus.build import default_cache_dir
from regmix_active.errors import StudyError
from regmix_active.threads import one_thread

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

FAMILY = "multilayer perceptrons (two hidden layers of tanh units)"
"""What the emulator is, for whoever compares it with what it judges."""

VERSION = 1
"""Raised whenever the same runs would give another emulator, so that none is read from a cache of before."""

MINIMUM_RUNS = 24
"""Observations that every loss needs."""

FOLDS = 6
NOISE_SHARES = (0.03, 0.3, 1.0)
"""Shares of a loss's variance that are tried as its noise."""
HIDDEN = 64
STEPS = 1000
LEARNING_RATE = 5e-3
SMALLEST = 1e-3
"""Weights are told apart on a logarithmic scale down to about this share."""
CAUTION = 2.0
"""By how many times the unusual part of the networks' disagreement the truth is worse than their mean."""
CHUNK = 4096


@dataclass(frozen=True)
class Emulator:
    """Losses of any mixture, learnt from recorded runs; made by :meth:`fit`.

    Attributes:
        held_out_r2: Share of each loss's variance that networks explain which have not seen the run, shape ``(m,)``.
        noise_share: The assumed share of noise that served each loss best, shape ``(m,)``.
    """

    held_out_r2: Array
    noise_share: Array
    _parameters: tuple[NDArray[np.float32], ...]
    _inputs: Array
    _outputs: Array
    _member: NDArray[np.int64]
    _usual: Array
    _floor: Array

    @classmethod
    def fit(cls, mixtures: Array, losses: Array, seed: int = 0) -> Self:
        """Train the ensemble, with one thread; the result depends on the arguments alone.

        Args:
            mixtures: Shape ``(n, d)``.
            losses: Shape ``(n, m)``, nats per token or any other unit; NaN where a loss is missing.
            seed: Of the folds and the initial weights.

        Raises:
            StudyError: If a loss has fewer than :data:`MINIMUM_RUNS` observations, or a mixture is not finite.
        """
        X, Y = np.asarray(mixtures, dtype=np.float64), np.asarray(losses, dtype=np.float64)
        seen = ~np.isnan(Y)
        if (least := int(seen.sum(axis=0).min(initial=len(Y)))) < MINIMUM_RUNS:
            raise StudyError(
                f"an emulator needs {MINIMUM_RUNS} runs or more with every loss, there are {least}; add tables of runs"
            )
        if not np.isfinite(X).all() or np.isinf(Y).any():
            raise StudyError("an emulator needs finite mixtures, and losses that are finite or missing; leave diverged runs out")
        generator = torch.Generator().manual_seed(seed)
        fold = _folds(X, generator)
        raw = _features(X)
        inputs = np.stack([raw.mean(axis=0), _positive(raw.std(axis=0))])
        outputs = np.stack([np.nanmean(Y, axis=0), _positive(np.nanstd(Y, axis=0))])
        Z = torch.from_numpy((raw - inputs[0]) / inputs[1]).float()
        T = torch.from_numpy(np.where(seen, (Y - outputs[0]) / outputs[1], 0.0)).float()
        shares = np.repeat(NOISE_SHARES, FOLDS)
        used = np.stack([(fold != k)[:, None] & seen for k in range(FOLDS)] * len(NOISE_SHARES))
        with one_thread():
            parameters = _train(Z, T, torch.from_numpy(used).float(), torch.from_numpy(shares).float(), generator)
            with torch.no_grad():
                fitted = _network(parameters, Z.expand(len(shares), *Z.shape)).double().numpy()
        fitted = (fitted * outputs[1] + outputs[0]).reshape(len(NOISE_SHARES), FOLDS, *Y.shape)
        held_out = fitted[:, fold, np.arange(len(X))]
        errors = np.nanmean((held_out - Y) ** 2, axis=1)
        best, columns = errors.argmin(axis=0), np.arange(Y.shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = 1 - errors[best, columns] / np.nanvar(Y, axis=0)
        low = np.nanmin(Y, axis=0)
        margin = np.maximum(np.nanquantile(Y, 0.1, axis=0) - low, 0.01 * outputs[1])
        return cls(
            held_out_r2=r2,
            noise_share=np.array(NOISE_SHARES)[best],
            _parameters=tuple(p.numpy() for p in parameters),
            _inputs=inputs,
            _outputs=outputs,
            _member=np.stack([best * FOLDS + k for k in range(FOLDS)]),
            _usual=np.quantile(fitted[best, :, :, columns].std(axis=1), 0.9, axis=1),
            _floor=np.stack([low - margin, margin / 4]),
        )

    def losses(self, mixtures: Array) -> Array:
        """The losses that training on `mixtures` ``(q, d)`` would show without noise, shape ``(q, m)``."""
        parts = np.array_split(np.asarray(mixtures, dtype=np.float64), max(1, -(-len(mixtures) // CHUNK)))
        return np.concatenate([self._losses(part) for part in parts])

    def _losses(self, mixtures: Array) -> Array:
        Z = torch.from_numpy((_features(mixtures) - self._inputs[0]) / self._inputs[1]).float()
        # Shares of noise that serve no loss need no answer.
        needed, position = np.unique(self._member, return_inverse=True)
        with one_thread(), torch.no_grad():
            parameters = [torch.from_numpy(p[needed]) for p in self._parameters]
            answers = _network(parameters, Z.expand(len(needed), *Z.shape)).double().numpy()
        members = answers[position.reshape(self._member.shape), :, np.arange(self._member.shape[1])]  # (folds, m, q)
        members = members.transpose(0, 2, 1) * self._outputs[1] + self._outputs[0]
        truth = members.mean(axis=0) + CAUTION * np.clip(members.std(axis=0) - self._usual, 0.0, None)
        floor, width = self._floor
        truth = floor + width * np.logaddexp(0.0, (truth - floor) / width)
        return truth

    @classmethod
    def cached(cls, mixtures: Array, losses: Array, seed: int = 0, *, folder: Path) -> Self:
        """:meth:`fit`, or what it gave before for the same runs, seed and settings; kept in `folder`.

        Raises:
            StudyError: As :meth:`fit`. A folder that cannot be written costs time only.
        """
        file = folder / f"{_digest(mixtures, losses, seed)}.npz"
        try:
            return cls._read(file)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("the cached emulator %s is damaged (%s); fitting it again", file, error)
        emulator = cls.fit(mixtures, losses, seed)
        try:
            emulator._write(file)
        except OSError as error:
            log.warning("the emulator cannot be kept in %s (%s); the next benchmark fits it again", folder, error)
        return emulator

    def _write(self, file: Path) -> None:
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "_parameters"}
        arrays.update({f"parameter{i}": p for i, p in enumerate(self._parameters)})
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
            os.replace(temporary, file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def _read(cls, file: Path) -> Self:
        # Opened here, because np.load does not close what turns out to be no archive.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {field.name: stored[field.name] for field in fields(cls) if field.name != "_parameters"}
            count = sum(name.startswith("parameter") for name in stored.files)
            return cls(**arrays, _parameters=tuple(stored[f"parameter{i}"] for i in range(count)))


def default_cache() -> Path:
    """Folder of fitted emulators, beside the corpora in the project's cache."""
    return default_cache_dir().parent / "emulators"


def _features(mixtures: Array) -> Array:
    """What the networks see of mixtures ``(n, d)``, shape ``(n, 3d)``: each weight, its square root and its logarithm.

    Losses answer to the first percent of a domain more than to the fortieth, and to none at all differently.
    """
    W = np.clip(mixtures, 0.0, 1.0)
    return np.concatenate([W, np.sqrt(W), np.log(W + SMALLEST)], axis=1)


def _positive(scale: Array) -> Array:
    """Scales to divide by; those of constant columns become 1."""
    return np.where(scale > 1e-9, scale, 1.0)


def _folds(mixtures: Array, generator: torch.Generator) -> NDArray[np.int64]:
    """Fold of each run, shape ``(n,)``; runs of one mixture share a fold, because one would give the other away."""
    _, mixture = np.unique(mixtures.round(6), axis=0, return_inverse=True)
    order = torch.randperm(int(mixture.max()) + 1, generator=generator).numpy()
    fold: NDArray[np.int64] = order[mixture.reshape(-1)] % FOLDS
    return fold


def _train(Z: Tensor, T: Tensor, used: Tensor, shares: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Fit all networks at once as one batched model.

    Args:
        Z: Standardised inputs, shape ``(n, f)``.
        T: Standardised losses, shape ``(n, m)``.
        used: 1 where a network may see a loss, shape ``(e, n, m)``.
        shares: Assumed share of noise per network, shape ``(e,)``.
        generator: Of the initial weights.

    Returns:
        Weights and biases of the layers in turn, shapes ``(e, inputs, outputs)`` and ``(e, 1, outputs)``.
    """
    sizes = [Z.shape[1], HIDDEN, HIDDEN, T.shape[1]]
    parameters = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        parameters.append(torch.randn(len(shares), fan_in, fan_out, generator=generator) / fan_in**0.5)
        parameters.append(torch.zeros(len(shares), 1, fan_out))
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    inputs = Z.expand(len(shares), *Z.shape)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        squares = ((_network(parameters, inputs) - T) ** 2 * used).sum(dim=(1, 2))
        # Weights are a priori as they are initialised: normal with variance 1 / fan_in.
        prior = sum((w.shape[1] * w.square().sum(dim=(1, 2)) for w in parameters[::2]), torch.zeros(()))
        ((squares + shares * prior).sum() / len(Z)).backward()
        optimizer.step()
        schedule.step()
    return [parameter.detach() for parameter in parameters]


def _network(parameters: list[Tensor], inputs: Tensor) -> Tensor:
    """Outputs ``(e, n, m)`` of e networks for their inputs ``(e, n, f)``."""
    w1, b1, w2, b2, w3, b3 = parameters
    hidden = torch.tanh(torch.baddbmm(b1, inputs, w1))
    hidden = torch.tanh(torch.baddbmm(b2, hidden, w2))
    return torch.baddbmm(b3, hidden, w3)


def _digest(mixtures: Array, losses: Array, seed: int) -> str:
    settings = (VERSION, FOLDS, NOISE_SHARES, HIDDEN, STEPS, LEARNING_RATE, SMALLEST, CAUTION, seed, mixtures.shape, losses.shape)
    content = hashlib.sha256(repr(settings).encode())
    for array in (mixtures, losses):
        content.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return content.hexdigest()[:32]
