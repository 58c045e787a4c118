"""The data set and the models of the demo: scikit-learn only, no API, the same figures every time.

Breast tumours, 569 of them, measured under a microscope: Wisconsin Diagnostic Breast Cancer, which
scikit-learn ships. The question is whether a tumour is malignant.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]
from sklearn.ensemble import GradientBoostingClassifier  # type: ignore[import-untyped]
from sklearn.linear_model import SGDClassifier  # type: ignore[import-untyped]
from sklearn.metrics import (  # type: ignore[import-untyped]
    accuracy_score,
    classification_report,
    confusion_matrix,
    f1_score,
    hinge_loss,
    log_loss,
    precision_score,
    recall_score,
)
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

_SEED = 7
COVARIATE = "mean texture"
_COVARIATE_FAMILY = ("mean texture", "texture error", "worst texture")


@dataclass(frozen=True, slots=True)
class Sample:
    """Tumours (rows) and what they turned out to be (1 is malignant)."""

    features: NDArray[np.float64]
    malignant: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.malignant)


@dataclass(frozen=True, slots=True)
class Data:
    """`train` and `test` come from one population, `incoming` from another.

    The populations are divided by a covariate that was really measured: the coarseness of the
    image, "mean texture". The coarsest three in ten are what comes in after deployment, as if a
    second clinic with another microscope had joined.
    """

    feature_names: tuple[str, ...]
    train: Sample
    test: Sample
    incoming: Sample
    limit: float
    digest: str

    def monitored(self) -> list[int]:
        """Return the columns in which a shift is news: all but the covariate's own three."""
        return [i for i, name in enumerate(self.feature_names) if name not in _COVARIATE_FAMILY]


def load() -> Data:
    """Read the data set from the installed scikit-learn and divide it."""
    bunch = load_breast_cancer()
    names = tuple(str(name) for name in bunch.feature_names)
    features, malignant = bunch.data, 1 - bunch.target  # scikit-learn's 1 is benign
    texture = features[:, names.index(COVARIATE)]
    limit = float(np.quantile(texture, 0.7))
    usual = texture <= limit
    train_x, test_x, train_y, test_y = train_test_split(
        features[usual],
        malignant[usual],
        test_size=0.3,
        stratify=malignant[usual],
        random_state=_SEED,
    )
    return Data(
        feature_names=names,
        train=Sample(train_x, train_y),
        test=Sample(test_x, test_y),
        incoming=Sample(features[~usual], malignant[~usual]),
        limit=limit,
        digest=_digest(features.tobytes() + malignant.tobytes()),
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train: the estimator and everything that tells it from the others."""

    name: str
    description: str
    estimator: Callable[[], Any]
    hyperparameters: dict[str, float | int | str]
    epochs: int = 40


def _sgd(loss: str, learning_rate: float) -> Recipe:
    kind = {"log_loss": "logistic", "hinge": "support vector"}[loss]
    return Recipe(
        name=f"sgd-{loss.replace('_', '-')}-{learning_rate:g}",
        description=f"Linear ({kind}), stochastic gradient descent at {learning_rate:g}.",
        estimator=lambda: SGDClassifier(
            loss=loss, learning_rate="constant", eta0=learning_rate, random_state=_SEED
        ),
        hyperparameters={
            "model": "SGDClassifier",
            "loss": loss,
            "learning_rate": learning_rate,
            "seed": _SEED,
        },
    )


RECIPES = (
    _sgd("log_loss", 0.0001),
    _sgd("log_loss", 0.01),
    _sgd("hinge", 0.001),
    Recipe(
        name="gradient-boosting",
        description="Forty small trees, one per epoch.",
        estimator=lambda: GradientBoostingClassifier(
            n_estimators=0, max_depth=2, learning_rate=0.1, warm_start=True, random_state=_SEED
        ),
        hyperparameters={
            "model": "GradientBoostingClassifier",
            "loss": "log_loss",
            "learning_rate": 0.1,
            "max_depth": 2,
            "seed": _SEED,
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a run has left behind."""

    name: str
    path: Path
    size_bytes: int
    digest: str


class Training:
    """One model in the making; each call of `epoch` takes it further."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        self.recipe = recipe
        self._data = data
        self._scaler = StandardScaler().fit(data.train.features)
        self._train_x = self._scaler.transform(data.train.features)
        self._estimator = recipe.estimator()
        self._random = np.random.default_rng(_SEED)
        self.model = Pipeline([("scale", self._scaler), ("classify", self._estimator)])

    def epoch(self) -> dict[str, float]:
        """Train one epoch (a boosted model: one more tree); return what it has come to."""
        y = self._data.train.malignant
        if isinstance(self._estimator, GradientBoostingClassifier):
            self._estimator.n_estimators += 1
            self._estimator.fit(self._train_x, y)
            loss = log_loss(y, self._estimator.predict_proba(self._train_x))
        else:
            order = self._random.permutation(len(y))
            self._estimator.partial_fit(self._train_x[order], y[order], classes=[0, 1])
            if self._estimator.loss == "hinge":
                loss = hinge_loss(y, self._estimator.decision_function(self._train_x))
            else:
                loss = log_loss(y, self._estimator.predict_proba(self._train_x))
        return {"train_loss": float(loss), **scores(self.model, self._data.test)}

    def save(self, folder: Path) -> list[Artifact]:
        """Write the model, which comes first in the list, and its report on the test sample."""
        folder.mkdir(parents=True)
        model, report = folder / "model.joblib", folder / "report.json"
        joblib.dump(self.model, model)
        actual, predicted = self._data.test.malignant, self.model.predict(self._data.test.features)
        report.write_text(
            json.dumps(
                {
                    "confusion_matrix": confusion_matrix(actual, predicted).tolist(),
                    "by_class": classification_report(
                        actual,
                        predicted,
                        target_names=["benign", "malignant"],
                        output_dict=True,
                        zero_division=0,
                    ),
                },
                indent=2,
            )
        )
        return [_artifact(model), _artifact(report)]


def scores(model: Any, sample: Sample) -> dict[str, float]:
    """Return how well `model` tells malignant from benign in `sample`."""
    predicted = model.predict(sample.features)
    # An early epoch may call nothing malignant; then precision is 0.
    return {
        "accuracy": _figure(accuracy_score(sample.malignant, predicted)),
        "precision": _figure(precision_score(sample.malignant, predicted, zero_division=0)),
        "recall": _figure(recall_score(sample.malignant, predicted, zero_division=0)),
        "f1": _figure(f1_score(sample.malignant, predicted, zero_division=0)),
    }


def specificity(model: Any, sample: Sample) -> float:
    """Return which part of the benign tumours in `sample` `model` takes for benign."""
    return _figure(recall_score(sample.malignant, model.predict(sample.features), pos_label=0))


def known(train: Sample, sample: Sample) -> int:
    """Return how many tumours of `sample` are in the training sample too."""
    seen = {row.tobytes() for row in train.features}
    return sum(row.tobytes() in seen for row in sample.features)


def missed(model: Any, sample: Sample) -> int:
    """Return how many malignant tumours `model` takes for benign ones."""
    return int(np.sum((sample.malignant == 1) & (model.predict(sample.features) == 0)))


def serve(model: Any, sample: Sample) -> float:
    """Ask the model about one tumour at a time; return the mean milliseconds per answer."""
    started = perf_counter()
    for row in sample.features:
        model.predict(row.reshape(1, -1))
    return _figure((perf_counter() - started) * 1000 / len(sample))


def is_intact(artifact: Artifact) -> bool:
    """Tell whether the file is still there and still what was written."""
    return artifact.path.is_file() and _artifact(artifact.path).digest == artifact.digest


def load_model(artifact: Artifact) -> Any:
    """Read a model back from its file, which the caller knows to be intact."""
    return joblib.load(artifact.path)


def _artifact(path: Path) -> Artifact:
    content = path.read_bytes()
    return Artifact(path.name, path, len(content), _digest(content))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _figure(value: float) -> float:
    return round(float(value), 4)  # more digits than that say nothing about 120 tumours
