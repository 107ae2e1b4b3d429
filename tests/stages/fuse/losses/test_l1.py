"""The penalty on weights."""

import torch
from torch import nn

from avfuse.stages.fuse.losses.l1 import l1


def test_it_is_the_sum_of_the_weights_of_linear_layers_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Sequential(nn.Linear(2, 1)), nn.Embedding(4, 2))
    expected = module[0].weight.abs().sum() + module[2][0].weight.abs().sum()
    torch.testing.assert_close(l1(module), expected)


def test_only_weights_get_a_gradient() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    l1(module).backward()
    torch.testing.assert_close(module[0].weight.grad, module[0].weight.sign())
    assert [name for name, parameter in module.named_parameters() if parameter.grad is not None] == ["0.weight"]


def test_a_module_without_linear_layers_costs_nothing() -> None:
    assert l1(nn.LayerNorm(2)) == 0


def test_gradients_are_those_of_finite_differences() -> None:
    module = nn.Linear(3, 2).double()
    weight = module.weight.detach().clone()
    weight[weight.abs() < 0.01] = 0.1  # away from the corner

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = module

        def forward(self) -> torch.Tensor:
            return l1(self.layer)

    holder = Holder()
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(holder, {"layer.weight": weight}, ()), weight.requires_grad_()
    )
