"""PyTorch's side of `benchmarks/td_jepa.py`: the same update of TD-JEPA, written eagerly and plainly, in an interpreter
of its own, which needs neither rlx nor JAX.

    PYTHON benchmarks/td_jepa_peer.py THREADS DEVICE        # commands: see torch_peer.py
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch_peer import serve

ROWS = 200_000


class Embedding(nn.Module):
    """Dense, layer normalisation, tanh, then dense layers with ReLU; linear at the end unless told otherwise."""

    def __init__(self, inputs: int, widths: tuple[int, ...], activate_last: bool = False):
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers.append(nn.Linear(inputs, width))
            if i < len(widths) - 1 or activate_last:
                layers += [nn.LayerNorm(width), nn.Tanh()] if i == 0 else [nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Encoder(nn.Module):
    def __init__(self, inputs: int, hidden: int, layers: int, out: int):
        super().__init__()
        self.net, self.norm = Embedding(inputs, (*[hidden] * layers, out)), math.sqrt(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm * nn.functional.normalize(self.net(x), dim=-1)


class Head(nn.Module):
    """Two embeddings of half the width, then ReLU layers; of predictors, and of the actor."""

    def __init__(self, first: int, second: int, hidden: int, layers: int, out: int):
        super().__init__()
        self.first = Embedding(first, (hidden, hidden // 2), True)
        self.second = Embedding(second, (hidden, hidden // 2), True)
        inside: list[nn.Module] = []
        for _ in range(layers):
            inside += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.rest = nn.Sequential(*inside, nn.Linear(hidden, out))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.rest(torch.cat([self.first(first), self.second(second)], -1))


class Heads(nn.Module):
    def __init__(self, count: int, *sizes: int):
        super().__init__()
        self.heads = nn.ModuleList(Head(*sizes) for _ in range(count))

    def forward(self, x: torch.Tensor, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        first, second = torch.cat([x, a], -1), torch.cat([x, z], -1)
        return torch.stack([head(first, second) for head in self.heads])


def orthonormality(x: torch.Tensor) -> torch.Tensor:
    """As the paper writes it, over pairs of the batch."""
    n = x.shape[0]
    gram = x @ x.T
    off = gram.square().sum() - gram.diagonal().square().sum()
    return off / (2 * n * (n - 1)) - gram.diagonal().mean()


class Learner:
    def __init__(self, s: dict[str, Any], device: str):
        self.s, self.device = s, device
        n, m, d, k = s["obs"], s["actions"], s["d_phi"], s["d_psi"]
        sizes = (s["predictor_hidden"], s["predictor_layers"])
        self.phi = Encoder(n, s["phi_hidden"], s["phi_layers"], d).to(device)
        self.psi = Encoder(n, s["psi_hidden"], s["psi_layers"], k).to(device)
        self.forth = Heads(s["heads"], d + m, d + k, *sizes, k).to(device)
        self.back = Heads(s["heads"], k + m, k + k, *sizes, d).to(device)
        self.actor = Head(d, d + k, s["actor_hidden"], s["actor_layers"], m).to(device)
        self.learned = [self.phi, self.psi, self.forth, self.back]
        self.targets = [copy.deepcopy(net).requires_grad_(False) for net in self.learned]
        self.opt = torch.optim.Adam([p for net in self.learned for p in net.parameters()], lr=1e-4)
        self.actor_opt = torch.optim.Adam(self.actor.parameters(), lr=1e-4)
        self.obs, self.next_obs = (torch.randn(ROWS, n, device=device) for _ in range(2))
        self.action = torch.rand(ROWS, m, device=device) * 2 - 1
        self.moment = torch.eye(k, device=device)

    def act(self, phi: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        mean = torch.tanh(self.actor(phi, torch.cat([phi, z], -1)))
        drawn = mean + (0.2 * torch.randn_like(mean)).clamp(-0.3, 0.3)
        return drawn + (drawn.clamp(-1 + 1e-6, 1 - 1e-6) - drawn).detach()

    def tasks(self, next_psi: torch.Tensor) -> torch.Tensor:
        """Half of them directions on the sphere, half features of the batch."""
        n, k = next_psi.shape
        drawn = math.sqrt(k) * nn.functional.normalize(torch.randn_like(next_psi), dim=-1)
        goals = next_psi[torch.randperm(n, device=next_psi.device)]
        return torch.where(torch.rand(n, 1, device=next_psi.device) < 0.5, goals, drawn)

    def update(self) -> None:
        s = self.s
        at = torch.randint(ROWS, (s["batch"],), device=self.device)
        obs, action, next_obs = self.obs[at], self.action[at], self.next_obs[at]
        phi_t, psi_t, forth_t, back_t = self.targets
        with torch.no_grad():
            z = self.tasks(self.psi(next_obs))
            next_phi, next_psi = phi_t(next_obs), psi_t(next_obs)
            next_action = self.act(next_phi, z)
            y_phi = next_psi + s["discount"] * forth_t(next_phi, z, next_action).mean(0)
            y_psi = next_phi + s["discount"] * back_t(next_psi, z, next_action).mean(0)
        phi, psi = self.phi(obs), self.psi(obs)
        loss = (self.forth(phi, z, action) - y_phi).square().sum(-1).mean()
        loss = loss + (self.back(psi, z, action) - y_psi).square().sum(-1).mean()
        loss = loss + 0.1 * orthonormality(phi) + s["lambda_psi"] * orthonormality(psi)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        with torch.no_grad():
            self.moment.lerp_(psi.T @ psi / len(psi), 0.01)
            phi = self.phi(obs)
        for p in self.forth.parameters():
            p.requires_grad_(False)
        climb = -(self.forth(phi, z, self.act(phi, z)) * z).sum(-1).mean()
        self.actor_opt.zero_grad()
        climb.backward()
        self.actor_opt.step()
        for p in self.forth.parameters():
            p.requires_grad_(True)
        with torch.no_grad():
            for net, target in zip(self.learned, self.targets, strict=True):
                for p, t in zip(net.parameters(), target.parameters(), strict=True):
                    t.lerp_(p, s["tau"])


if __name__ == "__main__":
    serve(Learner)
