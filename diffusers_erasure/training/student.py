"""The component that is trained: a copy that owns what changes and shares the rest with the caller's.

The frozen original is the *teacher*. It is the caller's own object and is never changed, so a copy of the
trained weights is all the memory that a student costs.

A base model may come in float16 or bfloat16. Steps of 1e-5 are lost in such weights, so the student is then a
float32 copy, made from what is stored: the master weights. The difference to the original stays exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusers_erasure.artifacts.copying import edited_copy
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.tensors import canonical_name
from diffusers_erasure.diffusion import (
    Component,
    DiffusionComponents,
    LayerPart,
    component_of,
    trainable_parameters,
)
from diffusers_erasure.diffusion.attention import use_plain_attention
from diffusers_erasure.diffusion.precision import double
from diffusers_erasure.errors import ConfigError

StoredType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False)
class Student:
    """A trainable copy of one component.

    Attributes:
        component: Which one.
        module: The copy.
        parameters: What is trained, by canonical name.
        teacher: The same weights of the original.
    """

    component: Component
    module: Any
    parameters: Mapping[str, nn.Parameter]
    teacher: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        components: DiffusionComponents,
        group: str,
        *,
        part: LayerPart = "all",
        gradient_checkpointing: bool = False,
    ) -> Student:
        """Copy the component that a parameter group belongs to, ready to be trained.

        Args:
            components: The base model; not changed.
            group: Which weights are trained, see `parameter_groups`.
            part: Of a text encoder's layers: all of them, their attention or their feed-forward part.
            gradient_checkpointing: Compute activations again in the backward pass.

        Raises:
            ConfigError: There is no such group, or it holds nothing here.
        """
        component = component_of(group)
        base = getattr(components, component)
        chosen = trainable_parameters(base, group, part=part)
        teacher = {canonical_name(name): p.detach() for name, p in chosen.items()}
        module = edited_copy(base, {name: weight.clone() for name, weight in teacher.items()})
        nn.Module.float(module)  # leaves float32 weights where they are, shared with the base
        module.requires_grad_(False)
        module.eval()
        own = trainable_parameters(module, group, part=part)
        for parameter in own.values():
            parameter.requires_grad_(True)
        _prepare(module, component, gradient_checkpointing=gradient_checkpointing)
        named = {canonical_name(name): parameter for name, parameter in own.items()}
        return cls(component, module, named, teacher)

    def edit(self, stored: StoredType = "float32") -> DeltaEdit:
        """What training changed, as an artifact stores it: tensors that did not change are left out.

        Args:
            stored: dtype of the differences.

        Raises:
            ConfigError: Nothing changed.
        """
        dtype = getattr(torch, stored)
        deltas = {}
        for name, parameter in self.parameters.items():
            delta = (double(parameter.detach()) - double(self.teacher[name])).to("cpu", dtype)
            if bool(delta.any()):
                deltas[name] = delta
        if not deltas:
            raise ConfigError(
                f"training changed none of {len(self.parameters)} weights of the {self.component}, stored as "
                f"{stored}; expected a change; raise the learning rate or the number of steps"
            )
        return DeltaEdit(deltas)


def frozen_unet(unet: Any, *, gradient_checkpointing: bool = False) -> Any:
    """A copy for passes that gradients go *through*, not to: it shares every weight and owns none.

    Args:
        unet: The frozen UNet; its flags and processors stay as they are.
        gradient_checkpointing: Compute activations again in the backward pass.
    """
    module = edited_copy(unet, {})
    module.requires_grad_(False)
    module.eval()
    _prepare(module, "unet", gradient_checkpointing=gradient_checkpointing)
    return module


def stored_as(module: Any, dtype: torch.dtype) -> Any:
    """A frozen component in another precision: a copy that holds nothing of the one it was made from.

    Args:
        module: The caller's component; not changed.
        dtype: Of the copy. If the component has it, it is the component itself.
    """
    if dtype == module.dtype:
        return module
    return nn.Module.to(edited_copy(module, {}), dtype)  # diffusers' own `to` warns of an empty list


def _prepare(module: Any, component: Component, *, gradient_checkpointing: bool) -> None:
    """Settings of the copy that make a backward pass cheaper and change no value beyond rounding."""
    if component == "unet":
        use_plain_attention(module)
    if gradient_checkpointing and component == "unet":
        module.enable_gradient_checkpointing()
    elif gradient_checkpointing:
        switch = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)
        switch()
        module.train()  # transformers looks at this flag; CLIP's text model has no dropout
