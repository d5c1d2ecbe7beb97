"""Settings of the terms of the diffusion loss: noise, segmentation and perceptual."""

from typing import Literal

from pydantic import Field

from core.config.setting_effects import InputFile, Results
from core.inputs.locations import Place
from core.inputs.section import Section, ShareOrAll, Weight


class NoiseLossSection(Section):
    """Mean squared error of the predicted noise."""

    type: Results[Literal["MSELoss"]] = "MSELoss"
    key: Results[Literal["pred_noise"]] = "pred_noise"
    target: Results[Literal["noise"]] = "noise"
    weight: Results[Weight] = 1.0


class SegmentationLossSection(Section):
    """Cross-entropy of the decoded classes."""

    type: Results[Literal["CrossEntropyLoss"]] = "CrossEntropyLoss"
    key: Results[Literal["segmentation"]] = "segmentation"
    target: Results[Literal["segmentation"]] = "segmentation"
    weight: Results[Weight] = 0.1


class PerceptualLossSection(Section):
    """LPIPS distance of the decoded picture."""

    type: Results[Literal["PerceptualLoss"]] = "PerceptualLoss"
    key: Results[Literal["rgb"]] = "rgb"
    target: Results[Literal["rgb"]] = "rgb"
    weight: Results[Weight] = 0.05
    net: Results[Literal["alex", "vgg", "squeeze"]] = "alex"
    backbone: InputFile[Place | None] = Field(
        None, description="file with the weights of the network; torchvision's own if empty"
    )


class SemanticLossSection(Section):
    """The losses on decoded latents, at low noise levels and on a part of the batch."""

    type: Results[Literal["SemanticLoss"]] = "SemanticLoss"
    segmentation_loss: SegmentationLossSection = SegmentationLossSection()
    perceptual_loss: PerceptualLossSection = PerceptualLossSection()
    max_t: Results[ShareOrAll] = Field(0.4, description="highest noise level decoded, as a share of the schedule")
    batch_fraction: Results[ShareOrAll] = Field(0.125, description="decoded sub-batch, as a share of the batch")


class LossSection(Section):
    """The terms of the diffusion loss; without `semantic_loss` only the noise term."""

    noise_loss: NoiseLossSection = NoiseLossSection()
    semantic_loss: SemanticLossSection | None = SemanticLossSection()

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each of these terms, by the term's name."""
        weights = {"noise": self.noise_loss.weight}
        if self.semantic_loss is not None:
            weights["segmentation"] = self.semantic_loss.segmentation_loss.weight
            weights["perceptual"] = self.semantic_loss.perceptual_loss.weight
        return weights

    @property
    def perceptual(self) -> PerceptualLossSection:
        """The perceptual loss, or its defaults where there is no semantic loss."""
        return self.semantic_loss.perceptual_loss if self.semantic_loss else PerceptualLossSection()

    def with_trunk_of(self, other: "LossSection") -> "LossSection":
        """This loss with the LPIPS network, and the file of its weights, that `other` names."""
        if self.semantic_loss is None or other.semantic_loss is None:
            return self
        theirs = other.semantic_loss.perceptual_loss
        perceptual = self.semantic_loss.perceptual_loss.model_copy(
            update={"net": theirs.net, "backbone": theirs.backbone}
        )
        semantic = self.semantic_loss.model_copy(update={"perceptual_loss": perceptual})
        return self.model_copy(update={"semantic_loss": semantic})
