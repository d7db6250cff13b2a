"""The kernel that S4D keeps in eval mode."""

import pytest
import torch

from eigenzoo.models.ssm import S4D


class TestCache:
    @pytest.fixture
    def layer(self) -> S4D:
        return S4D(2, 4).eval()

    @torch.no_grad()
    def test_kept_in_eval_mode(self, layer: S4D):
        assert layer.kernel(9) is layer.kernel(9)
        assert layer.kernel(9) is not layer.kernel(10)
        assert not torch.equal(layer.kernel(9), layer.kernel(9, rate=2.0))

    def test_not_kept_where_gradients_flow(self, layer: S4D):
        for _ in range(2):
            layer(torch.randn(1, 9, 2)).sum().backward()
        assert layer.kernel(9) is not layer.kernel(9)
        with torch.no_grad():
            assert layer.train().kernel(9) is not layer.kernel(9)

    @torch.no_grad()
    @pytest.mark.parametrize("name", ["log_dt", "A_re", "A_im", "B", "C"])
    def test_follows_the_parameters(self, layer: S4D, name: str):
        old = layer.kernel(9)
        getattr(layer, name).mul_(1.5)
        new = layer.kernel(9)
        assert not torch.equal(new, old)
        assert torch.equal(new, layer.train().kernel(9))

    @torch.no_grad()
    def test_follows_load_and_type(self, layer: S4D):
        other, old = S4D(2, 4).eval(), layer.kernel(9)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer.kernel(9), other.kernel(9)) and not torch.equal(layer.kernel(9), old)
        assert layer.double().kernel(9).dtype == torch.float64

    @torch.no_grad()
    def test_steps_follow_the_parameters(self, layer: S4D):
        u, state = torch.ones(1, 2), layer.initial_state(1)
        old, _ = layer.step(u, state)
        layer.C.mul_(2)
        assert not torch.equal(layer.step(u, state)[0], old)

    def test_usable_from_inference_mode(self, layer: S4D):
        with torch.inference_mode():
            inside = layer(torch.ones(1, 9, 2))
        u = torch.ones(1, 9, 2, requires_grad=True)
        layer(u).sum().backward()
        assert torch.equal(layer(u), inside)
