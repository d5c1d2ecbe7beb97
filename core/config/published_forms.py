"""The forms of ImgiNav's published configs, rewritten to the one used here.

They write `training.loss` as a single loss or as a list, give the sizes of the autoencoder by part, and hold settings
of training methods that this project does not have. What has no effect here is listed in `without_effect`.
"""

from typing import Any

_KINDS = {
    kind.lower(): kind
    for kind in ("MSELoss", "SemanticLoss", "DiscriminatorLoss", "SNRWeightedNoiseLoss", "LatentStructuralLoss")
}
# Settings of sampling by class, of checks of memorisation, of augmentation and of early stopping.
_TRAINING_KEYS = frozenset(
    {
        "use_weighted_sampling",
        "column",
        "weighting_method",
        "max_weight",
        "min_weight",
        "rare_threshold_percentile",
        "min_samples_threshold",
        "use_grouped_weights",
        "group_rare_classes",
        "class_grouping_path",
        "exclude_extremely_rare",
        "use_non_uniform_sampling",
        "memorization_check_interval",
        "memorization_num_generate",
        "memorization_num_training",
        "memorization_light_interval",
        "memorization_light_num_generate",
        "memorization_light_num_training",
        "use_spatial_augmentation",
        "aug_rotation",
        "aug_prob",
        "aug_translate",
        "early_stopping_patience",
        "early_stopping_min_delta",
        "early_stopping_restore_best",
    }
)
_KEYS_WITHOUT_EFFECT = {
    "training": _TRAINING_KEYS,
    "autoencoder": frozenset({"encoder", "decoder"}),
    "unet": frozenset({"cond_mult"}),
    "discriminator": frozenset({"config"}),
}
# Where the sizes of an autoencoder's encoder stand here. The rest of its sizes is read from its checkpoint.
_ENCODER_SIZES = ("latent_channels", "downsampling_steps")
WITHOUT_EFFECT = "without_effect"


def in_one_form(data: dict[str, Any]) -> dict[str, Any]:
    """`data` of a config with published forms rewritten, and with the keys without effect taken out and listed.

    Raises ValueError for a loss of an unknown type, a loss given twice, and keys of a loss that are not known.
    """
    return _with_one_loss_form(_without_foreign_keys(data))


def _without_foreign_keys(data: dict[str, Any]) -> dict[str, Any]:
    """`data` without the keys that only ImgiNav has; sizes in them are kept."""
    kept, dropped = dict(data), []
    for name, foreign in _KEYS_WITHOUT_EFFECT.items():
        section = data.get(name)
        if not isinstance(section, dict) or not (found := [key for key in section if key in foreign]):
            continue
        kept[name] = {key: value for key, value in section.items() if key not in foreign}
        encoder = section.get("encoder") if name == "autoencoder" else None
        if isinstance(encoder, dict):
            kept[name] |= {key: encoder[key] for key in _ENCODER_SIZES if key in encoder and key not in section}
        dropped += [f"{name}.{key}" for key in found]
    return _listing(kept, dropped)


def _listing(data: dict[str, Any], dropped: list[str]) -> dict[str, Any]:
    """`data` with the names of what was dropped in its list."""
    if not dropped:
        return data
    before = data.get(WITHOUT_EFFECT)
    listed = list(before) if isinstance(before, list | tuple) else []
    return {**data, WITHOUT_EFFECT: listed + [name for name in dropped if name not in listed]}


def _with_one_loss_form(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with a published list or single loss rewritten to the `noise_loss` and `semantic_loss` maps."""
    training, discriminator = data.get("training"), data.get("discriminator") or {}
    loss = training.get("loss") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(loss, dict) or "type" not in loss:
        return data
    if not isinstance(discriminator, dict):
        return data
    entries = _entries(loss)
    maps: dict[str, Any] = {"semantic_loss": None}
    dropped = []
    if "SNRWeightedNoiseLoss" in entries:
        dropped.append("training.loss.SNRWeightedNoiseLoss")
        weight = entries["SNRWeightedNoiseLoss"].get("weight", 1.0)
        entries.setdefault("MSELoss", {"weight": weight})  # the same loss with equal weights of all noise levels
    if "LatentStructuralLoss" in entries:
        dropped.append("training.loss.LatentStructuralLoss")
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
    return _listing({**data, "discriminator": discriminator, "training": {**training, "loss": maps}}, dropped)


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
