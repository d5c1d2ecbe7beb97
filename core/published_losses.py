"""The two ways in which published configs write `training.loss`, read as one."""

from typing import Any


def with_one_loss_form(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with a published list or single loss rewritten to the `noise_loss`/`semantic_loss` maps."""
    training = data.get("training")
    loss = training.get("loss") if isinstance(training, dict) else None
    if not isinstance(loss, dict) or "type" not in loss:
        return data
    entries = loss.get("losses") if loss["type"] == "CompositeLoss" else [loss]
    if not isinstance(entries, list):
        raise ValueError("training.loss.losses must be a list of losses")
    maps: dict[str, Any] = {"semantic_loss": None}
    discriminator = dict(data.get("discriminator") or {})
    for entry in entries:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "MSELoss":
            maps["noise_loss"] = entry
        elif kind == "SemanticLoss":
            maps["semantic_loss"] = entry
        elif kind == "DiscriminatorLoss":
            weight = entry.get("weight", 0.1)
            if discriminator.setdefault("weight", weight) != weight:
                raise ValueError(
                    f"training.loss has a DiscriminatorLoss weight {weight} and discriminator.weight is "
                    f"{discriminator['weight']}: give one"
                )
        else:
            raise ValueError(f"training.loss: unknown loss type {kind}; use MSELoss, SemanticLoss or DiscriminatorLoss")
    return {**data, "discriminator": discriminator, "training": {**training, "loss": maps}}
