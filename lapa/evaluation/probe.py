"""Whether the codes tell the true action: probes, compared with what is known without the codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

LABELS = (10, 100, 1000)
"""Numbers of labelled transitions for which label efficiency is measured."""

DRAWS = 5
"""Random choices of labelled transitions that each of these figures is the mean of."""

LEAVES = 512
"""At most so many has a tree of the probe, those that tell most.

Without a limit, trees on codes that tell little of the action grow a leaf for every other transition: on 19,000 of
random Seaquest that takes four times as long and reads the action less well on validation (0.081, not 0.086; Pong
0.721, not 0.726; Breakout 0.870, not 0.868).
"""


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Transitions of one split whose true action is known.

    Attributes:
        codes: (P, h, w) integer codes.
        actions: (P,) class of the true action.
        observation: (P, O) float, the current frame by itself: its state, or its pixels, few enough to learn from.
        state: (P, S) numbers that bear on the action as well as can be known, such as the paddle's place before
            and after; None where the RAM was not recorded.
    """

    codes: np.ndarray
    actions: np.ndarray
    observation: np.ndarray
    state: np.ndarray | None

    def __len__(self) -> int:
        return len(self.actions)


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What the probes found on held-out episodes.

    Attributes:
        metrics: name -> figure; see :func:`probe_actions`.
        classes: (A,) the action classes.
        confusion: (A, A) transitions by true class (rows) and class that the probe of trees says (columns).
    """

    metrics: dict[str, float]
    classes: np.ndarray
    confusion: np.ndarray


def probe_actions(train: ProbeData, test: ProbeData, num_codes: int, seed: int = 0) -> ProbeResult:
    """Fits classifiers of the action on ``train`` and asks them on ``test``, episodes apart.

    ``accuracy`` is that of randomized trees on one-hot codes (Geurts et al. 2006), ``linear_accuracy`` of a logistic
    regression on the same; the trees can see that two neighbouring codes mean something together. Beside them stand:
    ``majority_accuracy``, which always says the commonest training action; ``observation_accuracy``, trees on the
    current frame alone, which knows what a player tends to do there; ``oracle_accuracy``, a decision tree on
    ``state``, what a perfect reading of both frames could reach. ``*_balanced_accuracy`` is the mean of the classes'
    recalls. ``labels_<k>_accuracy`` is that of the linear probe fitted on k random training transitions, and
    ``nmi`` and ``ami`` are normalised and adjusted mutual information (Vinh et al. 2010) of the action and the code at
    the place of the grid that tells most about it in training.
    """
    from sklearn.metrics import confusion_matrix

    seen, asked = one_hot(train.codes, num_codes), one_hot(test.codes, num_codes)
    # A code that stands at a place once in all of training teaches nothing about it.
    common = np.asarray(seen.sum(0)).ravel() >= 2
    seen, asked = seen[:, common], asked[:, common]
    said = trees(seed).fit(seen, train.actions).predict(asked)
    classes, counts = np.unique(train.actions, return_counts=True)
    majority = np.full(len(test), classes[counts.argmax()])
    saids = {
        "": said,
        "linear_": linear().fit(seen, train.actions).predict(asked),
        "observation_": observer(seed, train).fit(train.observation, train.actions).predict(test.observation),
        "majority_": majority,
    }
    if train.state is not None and test.state is not None:
        saids["oracle_"] = oracle().fit(train.state, train.actions).predict(test.state)
    metrics = {}
    for name, guesses in saids.items():
        metrics[f"{name}accuracy"] = float((guesses == test.actions).mean())
        metrics[f"{name}balanced_accuracy"] = balanced_accuracy(test.actions, guesses)
    if "oracle_accuracy" in metrics:
        metrics["share_of_oracle"] = metrics["accuracy"] / metrics["oracle_accuracy"]
    metrics |= label_efficiency(train, test, seen, asked, seed)
    metrics |= mutual_information(train, test)
    labels = np.union1d(classes, test.actions)
    return ProbeResult(metrics, labels, confusion_matrix(test.actions, said, labels=labels))


def trees(seed: int, max_features: float = 0.05, min_samples_leaf: int = 2, max_leaf_nodes: int | None = LEAVES) -> Any:
    """The non-linear probe."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(
        100,
        min_samples_leaf=min_samples_leaf,
        max_features=max_features,
        max_leaf_nodes=max_leaf_nodes,
        random_state=seed,
        n_jobs=-1,
    )


def observer(seed: int, data: ProbeData) -> Any:
    """The classifier on the current frame: of its state where that is known, else of its pixels."""
    # Each the best of several on validation episodes: what a model is compared with must not be weak.
    return trees(seed, 1.0, 20, None) if data.state is not None else trees(seed, 0.3, 5, None)


def linear() -> Any:
    """The linear probe."""
    from sklearn.linear_model import LogisticRegression

    # Of the solvers that take sparse input, the one that is ten times as fast here, with the same accuracy.
    return LogisticRegression(C=0.1, max_iter=300, solver="saga", tol=1e-3, random_state=0)


def fit_linear(problems: Iterable[tuple[Any, np.ndarray]]) -> list[Any]:
    """Linear probes of features (P, F) and labels (P,), fitted at the same time: the solver lets other threads run.

    Where all labels are the same, there is nothing to tell apart, and the probe says that one.
    """
    from sklearn.dummy import DummyClassifier

    def fitted(problem: tuple[Any, np.ndarray]) -> Any:
        features, labels = problem
        return (linear() if len(np.unique(labels)) > 1 else DummyClassifier()).fit(features, labels)

    with ThreadPoolExecutor() as threads:
        return list(threads.map(fitted, problems))


def oracle() -> Any:
    """The classifier on the RAM."""
    from sklearn.tree import DecisionTreeClassifier

    # Grown to its end: two places of the paddle all but settle the action; leaves of 20 lose 4 points on validation.
    return DecisionTreeClassifier(random_state=0)


def balanced_accuracy(truth: np.ndarray, guesses: np.ndarray) -> float:
    """Mean over the classes of ``truth`` of the share that was guessed right."""
    return float(np.mean([(guesses[truth == label] == label).mean() for label in np.unique(truth)]))


def label_efficiency(train: ProbeData, test: ProbeData, seen: Any, asked: Any, seed: int) -> dict[str, float]:
    """Accuracy of the linear probe with k labelled transitions, mean over random choices of them."""
    rng = np.random.default_rng(seed)
    metrics = {}
    for count in [count for count in LABELS if count <= len(train)]:
        draws = [rng.choice(len(train), count, replace=False) for _ in range(DRAWS)]
        probes = fit_linear((seen[rows], train.actions[rows]) for rows in draws)
        metrics[f"labels_{count}_accuracy"] = float(
            np.mean([(probe.predict(asked) == test.actions).mean() for probe in probes])
        )
    return metrics


def mutual_information(train: ProbeData, test: ProbeData) -> dict[str, float]:
    """Of the action and the code at one place, chosen on the training transitions."""
    from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score, normalized_mutual_info_score

    columns = train.codes.reshape(len(train), -1).T
    place = int(np.argmax([mutual_info_score(train.actions, column) for column in columns]))
    codes = test.codes.reshape(len(test), -1)[:, place]
    return {
        "nmi": float(normalized_mutual_info_score(test.actions, codes)),
        "ami": float(adjusted_mutual_info_score(test.actions, codes)),
    }


def one_hot(codes: np.ndarray, num_codes: int):  # type: ignore[no-untyped-def] # scipy is untyped
    """Codes (P, h, w) -> sparse (P, h*w*K), one column per code and grid position."""
    from scipy.sparse import csr_matrix

    flat = codes.reshape(len(codes), -1).astype(np.int64)
    rows, positions = flat.shape
    columns = flat + num_codes * np.arange(positions)
    pointers = positions * np.arange(rows + 1)
    ones = np.ones(flat.size, dtype=np.float32)
    return csr_matrix((ones, columns.ravel(), pointers), shape=(rows, positions * num_codes))
