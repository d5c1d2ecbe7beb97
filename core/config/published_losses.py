"""Published configs write `training.loss` as a single loss or as a list; both are read as the maps used here."""

from typing import Any

_KINDS = {kind.lower(): kind for kind in ("MSELoss", "SemanticLoss", "DiscriminatorLoss")}


def with_one_loss_form(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with a published list or single loss rewritten to the `noise_loss` and `semantic_loss` maps.

    Raises ValueError for a loss of an unknown type, a loss given twice, and keys that would have no effect.
    """
    training, discriminator = data.get("training"), data.get("discriminator") or {}
    loss = training.get("loss") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(loss, dict) or "type" not in loss:
        return data
    if not isinstance(discriminator, dict):
        return data
    entries = _entries(loss)
    maps: dict[str, Any] = {"semantic_loss": None}
    if "MSELoss" in entries:
        maps["noise_loss"] = entries["MSELoss"]
    if "SemanticLoss" in entries:
        maps["semantic_loss"] = entries["SemanticLoss"]
    if "DiscriminatorLoss" in entries:
        entry = entries["DiscriminatorLoss"]
        _require_known(entry, "DiscriminatorLoss", "type", "key", "target", "weight")
        if "weight" in entry:
            discriminator, weight = {**discriminator}, entry["weight"]
            if discriminator.setdefault("weight", weight) != weight:
                raise ValueError(
                    f"training.loss has a DiscriminatorLoss weight {weight} and discriminator.weight is "
                    f"{discriminator['weight']}: give one"
                )
    return {**data, "discriminator": discriminator, "training": {**training, "loss": maps}}


def _entries(loss: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The losses by type."""
    listed: Any = [loss]
    if str(loss["type"]).lower() == "compositeloss":
        _require_known(loss, "CompositeLoss", "type", "losses")
        listed = loss.get("losses")
    if not isinstance(listed, list):
        raise ValueError("training.loss.losses must be a list of losses")
    entries: dict[str, dict[str, Any]] = {}
    for entry in listed:
        kind = entry.get("type") if isinstance(entry, dict) else None
        known = _KINDS.get(str(kind).lower())
        if known is None:
            raise ValueError(f"training.loss: unknown loss type {kind}; use MSELoss, SemanticLoss or DiscriminatorLoss")
        if known in entries:
            raise ValueError(f"training.loss: {known} is given twice: keep one")
        entries[known] = entry
    return entries


def _require_known(entry: dict[str, Any], kind: str, *known: str) -> None:
    unknown = next((key for key in entry if key not in known), None)
    if unknown is not None:
        raise ValueError(f"training.loss: {kind} has the unknown key {unknown}; it takes {', '.join(known)}")
