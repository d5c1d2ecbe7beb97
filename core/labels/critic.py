"""A critic of layouts: it learns from a person's labels, on measures, what that person takes for viable."""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from core.audit.bootstrap import Interval
from core.audit.ranking import auc_interval
from core.runtime.seeding import derive_seed

# Each fold needs one label of each kind.
FOLDS = 5
# scikit-learn's 20 would leave trees of three or four leaves on a hundred labels.
_LEAST_IN_LEAF = 5


@dataclass(frozen=True)
class Critic:
    """A classifier that learnt from all labels, and the `auc` of such classifiers on labels that they had not seen."""

    classifier: HistGradientBoostingClassifier
    auc: Interval

    def probability(self, measures: np.ndarray) -> np.ndarray:
        """Probability that each layout is viable, float64 [N], from its `measures` [N, M]."""
        return _probability(self.classifier, measures)


def train_critic(measures: np.ndarray, viable: np.ndarray, seed: int) -> Critic:
    """The critic of layouts with `measures` [N, M] that are `viable` or not, bool [N], at least `FOLDS` of each kind.

    Its AUC is of a cross-validation: each layout is scored by a classifier that learnt from the other folds. One thread
    computes it, so that its bytes depend on nothing but the arguments.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=_small(derive_seed(seed, "critic folds")))
    scores = np.empty(len(viable))
    for training, unseen in folds.split(measures, viable):
        scores[unseen] = _probability(_trained(measures[training], viable[training], seed), measures[unseen])
    found = auc_interval(scores, viable, np.random.default_rng(derive_seed(seed, "critic auc")))
    return Critic(_trained(measures, viable, seed), found)


def _trained(measures: np.ndarray, viable: np.ndarray, seed: int) -> HistGradientBoostingClassifier:
    classifier = HistGradientBoostingClassifier(
        min_samples_leaf=_LEAST_IN_LEAF, early_stopping=False, random_state=_small(derive_seed(seed, "critic"))
    )
    with threadpool_limits(1, "openmp"):
        return classifier.fit(measures, viable)


def _probability(classifier: HistGradientBoostingClassifier, measures: np.ndarray) -> np.ndarray:
    with threadpool_limits(1, "openmp"):
        found: np.ndarray = classifier.predict_proba(measures)[:, 1]
    return found


def _small(seed: int) -> int:
    """`seed` in the range that scikit-learn takes."""
    return seed % 2**32
