"""Train one classifier on one of scikit-learn's bundled data sets.

An ordinary training script: scikit-learn and numpy, no network, nothing of prefect-campaign. It shows all
that a campaign asks of a script: it takes ``--seed --checkpoint-dir --resume --dry-run``, writes
``metrics.jsonl`` into its run dir, and exits non-zero when it fails. The same arguments always give the same
numbers.
"""

import argparse
import json
import math
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Array = np.ndarray
Predict = Callable[[Array], Array]

MLP_METHODS = ("mlp", "mlp-noscale")
"""The small neural network, and the same without standardised inputs."""
FITTED_METHODS = ("ridge", "logreg", "svm", "forest")
"""Fitted at once by scikit-learn, with the setting that does best on validation; the first two are linear."""
DATASETS = ("digits", "shifted", "parity", "wine", "cancer")
HIDDEN = 64
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
KEEP_CHECKPOINTS = 3


@dataclass(frozen=True)
class Data:
    """Features (n, d) and class numbers (n,) of the three parts."""

    train: tuple[Array, Array]
    val: tuple[Array, Array]
    test: tuple[Array, Array]
    n_classes: int


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    args.run_dir.mkdir(parents=True, exist_ok=True)
    data = load_data(args.dataset, args.seed, args.data_fraction)
    if args.method != "mlp-noscale":
        data = standardised(data)
    train = train_mlp if args.method in MLP_METHODS else fit
    with open(args.run_dir / "metrics.jsonl", "a", encoding="utf-8") as log:
        try:
            predict = train(data, args, log)
        except FloatingPointError as error:
            print(f"FloatingPointError: {error}", file=sys.stderr)
            return 1
        if args.dry_run:
            print("dry run: two mini-batches trained, nothing evaluated")
            return 0
        report(log, final_metrics(predict, data))
    return 0


# --- data ---------------------------------------------------------------------------------------------------


def load_data(name: str, seed: int, fraction: float) -> Data:
    """Half for training, a fifth for validation, the rest for the test; the seed draws the split.

    `fraction` keeps only that part of the training samples.
    """
    from sklearn import datasets

    # A stream of its own, shared with nothing in training: all methods see the same split.
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    load = {"wine": datasets.load_wine, "cancer": datasets.load_breast_cancer}.get(name, datasets.load_digits)
    x, y = load(return_X_y=True)
    if name == "shifted":
        x = shift_images(x, rng)
    elif name == "parity":
        y = y % 2
    order = rng.permutation(len(x))
    cuts = [len(x) // 2, len(x) * 7 // 10]
    train, val, test = ((x[part], y[part]) for part in np.split(order, cuts))
    n_classes = len(np.unique(y))
    return Data(smallest_sample(*train, round(len(train[0]) * fraction)), val, test, n_classes)


def smallest_sample(x: Array, y: Array, n: int) -> tuple[Array, Array]:
    """The first `n` samples, and the first of each class: not everything can be fitted to a single class."""
    first_of_each = np.unique(y, return_index=True)[1]
    chosen = np.union1d(first_of_each, np.arange(min(n, len(x))))
    return x[chosen], y[chosen]


def shift_images(x: Array, rng: np.random.Generator) -> Array:
    """Move each 8x8 image by -1, 0 or 1 pixel in both directions, as a careless scanner would."""
    padded = np.pad(x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = rng.integers(0, 3, (len(x), 2))
    return np.stack([p[i : i + 8, j : j + 8].ravel() for p, (i, j) in zip(padded, corners, strict=True)])


def standardised(data: Data) -> Data:
    """Zero mean and unit variance for each feature, as measured on the training part alone."""
    mean, std = data.train[0].mean(0), data.train[0].std(0)
    std[std == 0] = 1.0
    parts = [((x - mean) / std, y) for x, y in (data.train, data.val, data.test)]
    return Data(*parts, data.n_classes)


# --- the network --------------------------------------------------------------------------------------------


class MLP:
    """One hidden layer of ReLUs, softmax cross-entropy, SGD with momentum and weight decay."""

    def __init__(self, n_in: int, n_out: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.weights = [
            rng.normal(0, math.sqrt(2 / n_in), (n_in, HIDDEN)),
            np.zeros(HIDDEN),
            rng.normal(0, math.sqrt(2 / HIDDEN), (HIDDEN, n_out)),
            np.zeros(n_out),
        ]
        self.velocities = [np.zeros_like(w) for w in self.weights]

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Hidden activations (n, HIDDEN) and logits (n, n_out)."""
        w1, b1, w2, b2 = self.weights
        hidden = np.maximum(x @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def predict(self, x: Array) -> Array:
        return self.forward(x)[1].argmax(1)

    def step(self, x: Array, y: Array, lr: float) -> float:
        """One update on a mini-batch; returns its mean loss before the update."""
        hidden, logits = self.forward(x)
        logits = logits - logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        rows = np.arange(len(y))
        loss = -log_p[rows, y].mean()
        d_logits = np.exp(log_p)
        d_logits[rows, y] -= 1
        d_logits /= len(y)
        w1, _, w2, _ = self.weights
        d_hidden = d_logits @ w2.T * (hidden > 0)
        gradients = [
            x.T @ d_hidden + WEIGHT_DECAY * w1,
            d_hidden.sum(0),
            hidden.T @ d_logits + WEIGHT_DECAY * w2,
            d_logits.sum(0),
        ]
        for weight, velocity, gradient in zip(self.weights, self.velocities, gradients, strict=True):
            velocity *= MOMENTUM
            velocity -= lr * gradient
            weight += velocity
        return float(loss)


def train_mlp(data: Data, args: argparse.Namespace, log: TextIO) -> Predict:
    """Train for ``--epochs``, with one metrics row and one checkpoint for each.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    x, y = data.train
    model = MLP(x.shape[1], data.n_classes, args.seed)
    done = load_checkpoint(args.checkpoint_dir, model) if args.resume else 0
    with np.errstate(all="ignore"):  # overflow shows in the loss, which is checked
        for epoch in range(done + 1, args.epochs + 1):
            batches = mini_batches(len(x), args.batch_size, args.seed, epoch)[: 2 if args.dry_run else None]
            losses = [model.step(x[b], y[b], args.lr) for b in batches]
            loss = float(np.average(losses, weights=[len(b) for b in batches]))
            score = accuracy(model.predict, data.val)
            report(log, {"step": epoch, "train/loss": loss, "val/accuracy": score})
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} at epoch {epoch}")
            if args.dry_run:
                break
            save_checkpoint(args.checkpoint_dir, model, epoch)
    return model.predict


def mini_batches(n: int, size: int, seed: int, epoch: int) -> list[Array]:
    """Indices of each mini-batch. They depend on seed and epoch alone: a resumed run repeats them exactly."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [order[i : i + size] for i in range(0, n, size)]


def save_checkpoint(folder: Path, model: MLP, epoch: int) -> None:
    """Write ``epoch-NNNN.npz`` and keep the newest few. Renamed when complete, so no kill leaves half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial"
    with open(partial, "wb") as file:
        np.savez(file, *model.weights, *model.velocities, epoch=epoch)
    os.replace(partial, folder / f"epoch-{epoch:04d}.npz")
    for old in checkpoints(folder)[:-KEEP_CHECKPOINTS]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, model: MLP) -> int:
    """Fill `model` from the newest checkpoint; returns the epochs it has seen, 0 where there is none."""
    found = checkpoints(folder)
    if not found:
        return 0
    with np.load(found[-1]) as saved:
        for i, array in enumerate([*model.weights, *model.velocities]):
            array[...] = saved[f"arr_{i}"]
        epoch = int(saved["epoch"])
    print(f"resumed from {found[-1].name}", flush=True)
    return epoch


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("epoch-*.npz"), key=lambda p: int(p.stem.split("-")[1]))


# --- the others ---------------------------------------------------------------------------------------------


def fit(data: Data, args: argparse.Namespace, log: TextIO) -> Predict:
    """Fit each candidate setting and return the one that does best on the validation part.

    A baseline deserves its best setting. It takes milliseconds, so there is nothing to resume.
    """
    x, y = data.train
    if args.dry_run:
        x, y = smallest_sample(x, y, 2 * args.batch_size)
    best: tuple[float, Predict] | None = None
    for step, model in enumerate(candidates(args.method, args.seed), 1):
        model.fit(x, y)
        score = accuracy(model.predict, data.val)
        report(log, {"step": step, "val/accuracy": score})
        if best is None or score > best[0]:
            best = score, model.predict
        if args.dry_run:
            break
    assert best is not None
    return best[1]


def candidates(method: str, seed: int) -> list[Any]:
    """Unfitted scikit-learn models, one for each setting that is tried."""
    if method in ("ridge", "logreg"):
        from sklearn.linear_model import LogisticRegression, RidgeClassifier

        if method == "ridge":
            return [RidgeClassifier(alpha=a) for a in (0.1, 1.0, 10.0, 100.0, 1000.0)]
        return [LogisticRegression(C=c, max_iter=2000) for c in (0.001, 0.01, 0.1, 1.0, 10.0)]
    if method == "svm":
        from sklearn.svm import SVC

        return [SVC(C=c) for c in (0.1, 1.0, 10.0, 100.0)]
    from sklearn.ensemble import RandomForestClassifier

    return [RandomForestClassifier(n, random_state=seed) for n in (30, 100)]


# --- metrics and arguments ----------------------------------------------------------------------------------


def accuracy(predict: Predict, part: tuple[Array, Array]) -> float:
    return float((predict(part[0]) == part[1]).mean())


def final_metrics(predict: Predict, data: Data) -> dict[str, float]:
    """Accuracy and macro-averaged F1 on the test part, which nothing before this has looked at."""
    from sklearn.metrics import f1_score

    x, y = data.test
    return {
        "final/accuracy": accuracy(predict, data.test),
        "final/f1": float(f1_score(y, predict(x), average="macro", zero_division=0.0)),
        "final/val_accuracy": accuracy(predict, data.val),
    }


def report(log: TextIO, row: dict[str, float]) -> None:
    """One JSON object a line into ``metrics.jsonl``, flushed at once, and the same for people on stdout."""
    log.write(json.dumps(row) + "\n")
    log.flush()
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=[*FITTED_METHODS, *MLP_METHODS], required=True)
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument("--seed", type=int, default=0, help="draws the split and the initial weights")
    parser.add_argument("--epochs", type=int, default=40, help="of the MLP; the others are fitted at once")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--data-fraction", type=float, default=1.0, help="part of the training data used")
    parser.add_argument("--run-dir", "--out", type=Path, default=Path("."), help="gets metrics.jsonl")
    parser.add_argument("--checkpoint-dir", type=Path, help="default: checkpoints/ in the run dir")
    parser.add_argument("--resume", action="store_true", help="from the newest checkpoint, if there is one")
    parser.add_argument("--dry-run", action="store_true", help="train on two mini-batches and stop")
    args = parser.parse_args(argv)
    in_range = {
        "--seed": args.seed >= 0,
        "--epochs": args.epochs >= 1,
        "--lr": 0 < args.lr < math.inf,
        "--batch-size": args.batch_size >= 1,
        "--data-fraction": 0 < args.data_fraction <= 1,
    }
    for flag, ok in in_range.items():
        if not ok:
            parser.error(f"argument {flag}: out of range")
    args.checkpoint_dir = args.checkpoint_dir or args.run_dir / "checkpoints"
    return args


if __name__ == "__main__":
    sys.exit(main())
