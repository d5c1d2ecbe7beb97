"""How well a score ranks layouts: the area under the ROC curve, and the share of positives by fifths of the score."""

import numpy as np
from scipy.stats import rankdata

from core.audit.bootstrap import Interval, percentile_interval

_RESAMPLES = 1000
_FIFTHS = 5


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive item has a higher score than another one, ties by half; `scores`, `positive` [N].

    ValueError if there are no items of one kind.
    """
    count = int(positive.sum())
    if not 0 < count < len(positive):
        raise ValueError(f"an AUC needs items of both kinds, got {count} positive ones of {len(positive)}")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def auc_interval(scores: np.ndarray, positive: np.ndarray, rng: np.random.Generator) -> Interval:
    """`auc` with a 95 % bootstrap interval, which resamples each kind on its own."""
    kinds = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    drawn = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        drawn.append(auc(scores[rows], positive[rows]))
    return percentile_interval(auc(scores, positive), np.array(drawn))


def share_by_fifths(scores: np.ndarray, positive: np.ndarray) -> list[float]:
    """Share of positive items in each fifth of the items by score, from the lowest; NaN for a fifth without items."""
    fifths = np.array_split(positive[np.argsort(scores, kind="stable")], _FIFTHS)
    return [float(fifth.mean()) if len(fifth) else float("nan") for fifth in fifths]
