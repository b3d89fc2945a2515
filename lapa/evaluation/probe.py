"""Whether the codes tell the true action: two probes, beside the majority class and an oracle."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Transitions of one split whose true action is known.

    Attributes:
        codes: (P, h, w) integer codes.
        actions: (P,) class of the true action.
        state: (P, S) numbers that bear on the action as well as can be known, such as the paddle's place before
            and after; None where the console's memory was not recorded.
    """

    codes: np.ndarray
    actions: np.ndarray
    state: np.ndarray | None


def probe_metrics(train: ProbeData, test: ProbeData, num_codes: int) -> dict[str, float]:
    """Accuracies on ``test`` of classifiers fitted on ``train``, episodes apart.

    ``accuracy`` is that of randomized trees on one-hot codes (Geurts et al. 2006), ``linear_accuracy`` of a logistic
    regression on the same; the trees can see that two neighbouring codes mean something together.
    ``oracle_accuracy`` is a decision tree on ``state``, what a perfect reading of both frames could reach;
    ``majority_accuracy`` always says the commonest training action.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    seen, asked = one_hot(train.codes, num_codes), one_hot(test.codes, num_codes)
    trees = ExtraTreesClassifier(100, min_samples_leaf=2, max_features=0.05, random_state=0, n_jobs=-1)
    linear = LogisticRegression(C=0.1, max_iter=300)
    classes, counts = np.unique(train.actions, return_counts=True)
    metrics = {
        "accuracy": float(trees.fit(seen, train.actions).score(asked, test.actions)),
        "linear_accuracy": float(linear.fit(seen, train.actions).score(asked, test.actions)),
        "majority_accuracy": float((test.actions == classes[counts.argmax()]).mean()),
    }
    if train.state is not None and test.state is not None:
        oracle = DecisionTreeClassifier(min_samples_leaf=20, random_state=0).fit(train.state, train.actions)
        metrics["oracle_accuracy"] = float(oracle.score(test.state, test.actions))
        metrics["share_of_oracle"] = metrics["accuracy"] / metrics["oracle_accuracy"]
    return metrics


def one_hot(codes: np.ndarray, num_codes: int):  # type: ignore[no-untyped-def] # scipy is untyped
    """Codes (P, h, w) -> sparse (P, h*w*K), one column per code and grid position."""
    from scipy.sparse import csr_matrix

    flat = codes.reshape(len(codes), -1).astype(np.int64)
    rows, positions = flat.shape
    columns = flat + num_codes * np.arange(positions)
    pointers = positions * np.arange(rows + 1)
    ones = np.ones(flat.size, dtype=np.float32)
    return csr_matrix((ones, columns.ravel(), pointers), shape=(rows, positions * num_codes))
