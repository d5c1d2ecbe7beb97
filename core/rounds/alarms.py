"""Alarms: signs in the metrics and audits of a round that something went wrong."""

from dataclasses import dataclass

from core.rounds.finished_rounds import AuditFigures, Number, RoundMetrics

# Documented: above the first the discriminator's task is too easy, below the second it has nothing left to learn.
BAD_LATENTS_TOO_EASY_ACCURACY, NOTHING_LEARNT_ACCURACY = 0.9, 0.55
# A rise counts if it is larger than this: of the discriminator's score, and of the noise loss as a share of it.
_SCORE_RISE, _NOISE_RISE = 0.05, 0.05


@dataclass(frozen=True)
class Alarm:
    """One problem, in a sentence; `regression` is true if it means that the model became worse."""

    name: str
    text: str
    regression: bool = False


def find_alarms(metrics: RoundMetrics, before: AuditFigures | None, after: AuditFigures | None) -> list[Alarm]:
    """Alarms of a round, from its metrics and the audits of the model before and after it (None without an audit)."""
    alarms = [*_accuracy_alarms(metrics["discriminator_val_acc"])]
    noise_before, noise_after = metrics.get("noise_before"), metrics.get("val_noise_loss")
    if noise_before is not None and noise_after is not None and noise_after > (1 + _NOISE_RISE) * noise_before:
        text = f"held-out noise loss rose from {noise_before:.4f} to {noise_after:.4f}"
        alarms.append(Alarm("noise_rose", text, regression=True))
    if before is not None and after is not None:
        alarms += _audit_alarms(metrics, before, after)
    return alarms


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
