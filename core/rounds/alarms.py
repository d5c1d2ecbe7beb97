"""Alarms: signs in the metrics and audits of a round that something went wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.audit.rules import RULES, VIABLE
from core.config.experiment import ExperimentConfig
from core.rounds.finished_rounds import AuditFigures, Number, RoundMetrics, audit_figure

# Documented: above the first the discriminator's task is too easy, below the second it has nothing left to learn.
BAD_LATENTS_TOO_EASY_ACCURACY, NOTHING_LEARNT_ACCURACY = 0.9, 0.55
# A rise counts if it is larger than this: of the discriminator's score, and of the noise loss as a share of it.
_SCORE_RISE, _NOISE_RISE = 0.05, 0.05
# The AUC of a score that does not know which layouts are viable.
_KNOWS_NOTHING = 0.5
# Figures of the audit of which less is better.
LOWER_IS_BETTER = (
    "doorless",
    "frechet_distance",
    "kernel_distance",
    "class_divergence",
    "two_sample_accuracy",
    "memorised",
)
# Figures that describe layouts without saying which are better.
NO_DIRECTION = ("nearest_agreement",)


@dataclass(frozen=True)
class Alarm:
    """One problem, in a sentence.

    `regression` is true if it means that the model became worse; `stops` if, besides, `rounds.on_regression: stop` ends
    the run for it.
    """

    name: str
    text: str
    regression: bool = False
    stops: bool = False


def find_alarms(
    metrics: RoundMetrics,
    before: AuditFigures | None,
    after: AuditFigures | None,
    taught: Sequence[str] = (),
    scores_teach: bool = True,
) -> list[Alarm]:
    """Alarms of a round, from its metrics and the audits of the model before and after it (None without an audit).

    `taught` are the figures of the audit that the labels teach. `scores_teach` says whether Stage 3 learns from the
    discriminator's scores: if these know nothing, more rounds are of no use.
    """
    alarms = [*_accuracy_alarms(metrics["discriminator_val_acc"]), *_knowledge_alarms(metrics, scores_teach)]
    noise_before, noise_after = metrics.get("noise_before"), metrics.get("val_noise_loss")
    if noise_before is not None and noise_after is not None and noise_after > (1 + _NOISE_RISE) * noise_before:
        text = f"held-out noise loss rose from {noise_before:.4f} to {noise_after:.4f}"
        alarms.append(Alarm("noise_rose", text, regression=True))
    if before is not None and after is not None:
        alarms += _audit_alarms(metrics, before, after)
        alarms += _partial_label_alarms(taught, before, after)
    return alarms


def taught_figures(config: ExperimentConfig) -> list[str]:
    """The rules that the labels of a config's rounds teach, and `viable`.

    Empty if no label is of a rule, or if Stage 3 does not learn from labels: the discriminator's weight is zero.
    """
    section = config.rounds.viability
    learns = section.labels == "rules" and config.discriminator.weight != 0
    return [VIABLE, *(section.rules or RULES)] if learns else []


def _knowledge_alarms(metrics: RoundMetrics, scores_teach: bool) -> list[Alarm]:
    if "viability_auc" not in metrics or metrics["viability_auc_low"] > _KNOWS_NOTHING:
        return []
    value, low, high = (metrics[name] for name in ("viability_auc", "viability_auc_low", "viability_auc_high"))
    text = f"the discriminator knows nothing of viability: AUC {value:.3f} ({low:.3f} to {high:.3f})"
    return [Alarm("knows_nothing", f"{text} on generated latents that it did not see", stops=scores_teach)]


def _partial_label_alarms(taught: Sequence[str], before: AuditFigures, after: AuditFigures) -> list[Alarm]:
    """Something that is taught became better beyond its interval, something that is not became worse beyond its own."""
    names = before["intervals"].keys() & after["intervals"].keys()
    better = [name for name in taught if name in names and _changed(name, before, after) > 0]
    worse = [name for name in sorted(names - {*taught, VIABLE, *NO_DIRECTION}) if _changed(name, before, after) < 0]
    if not better or not worse:
        return []
    told = [f"{name} went from {audit_figure(before, name):.3f} to {audit_figure(after, name):.3f}" for name in worse]
    text = f"what is taught rose ({', '.join(better)}), and what is not became worse: {'; '.join(told)}"
    return [Alarm("partial_labels", text)]


def _changed(name: str, before: AuditFigures, after: AuditFigures) -> int:
    """1 if the figure became better and its two intervals do not overlap, -1 if it became worse so, else 0."""
    (low, high), (low_now, high_now) = before["intervals"][name], after["intervals"][name]
    if low is None or high is None or low_now is None or high_now is None:
        return 0
    rose, fell = low_now > high, high_now < low
    better, worse = (fell, rose) if name in LOWER_IS_BETTER else (rose, fell)
    return int(better) - int(worse)


def _accuracy_alarms(accuracy: float) -> list[Alarm]:
    alarms = []
    if accuracy > BAD_LATENTS_TOO_EASY_ACCURACY:
        alarms.append(
            Alarm("bad_latents_too_easy", f"discriminator accuracy {accuracy:.3f}: bad latents are too easy to tell")
        )
    if accuracy < NOTHING_LEARNT_ACCURACY:
        alarms.append(Alarm("nothing_left", f"discriminator accuracy {accuracy:.3f}: it has nothing left to learn"))
    return alarms


def _audit_alarms(metrics: RoundMetrics, before: AuditFigures, after: AuditFigures) -> list[Alarm]:
    alarms = []
    if _fell("viable", before, after["viable"]):
        text = f"viable layouts fell from {before['viable']:.3f} to {after['viable']:.3f}"
        alarms.append(Alarm("less_viable", text, regression=True))
    score_before, score_after = metrics["viability_before"], metrics["viability_after"]
    if score_after > score_before + _SCORE_RISE and after["viable"] <= before["viable"]:
        text = f"the discriminator's score rose from {score_before:.3f} to {score_after:.3f}, viable layouts did not"
        alarms.append(Alarm("fooled", f"{text}: it is being fooled", regression=True))
    coverage_before, coverage_after = before.get("coverage"), after.get("coverage")
    if coverage_before is not None and coverage_after is not None and _fell("coverage", before, coverage_after):
        text = f"coverage of real layouts fell from {coverage_before:.3f} to {coverage_after:.3f}: variety collapses"
        alarms.append(Alarm("collapse", text, regression=True))
    return alarms


def _fell(name: str, before: AuditFigures, value: Number) -> bool:
    """Whether the figure is now below the interval that it had before."""
    low = before["intervals"][name][0]
    return low is not None and value is not None and value < low
