"""PyTorch's side of `benchmarks/repo.py`: the same update of RePo, written eagerly and plainly, in an interpreter of its own,
which needs neither rlx nor JAX.

    PYTHON benchmarks/repo_peer.py THREADS DEVICE        # commands: see torch_peer.py
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus
from torch_peer import serve

ROWS, STREAMS = 500, 4
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(n, m), nn.ELU()]
    return nn.Sequential(*layers[:-1])


def encoder(c: int, channels: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in channels:
        layers += [nn.Conv2d(c, width, 4, 2), nn.ReLU()]
        c = width
    return nn.Sequential(*layers, nn.Flatten())


class Decoder(nn.Module):
    def __init__(self, features: int, width: int, depth: int, kernels: list[int], channels: int):
        super().__init__()
        self.linear, layers = nn.Linear(features, width), []
        for i, k in enumerate(kernels):
            left = len(kernels) - 1 - i
            out = depth * 2 ** (left - 1) if left else channels
            layers += [nn.ConvTranspose2d(width, out, k, 2), nn.ReLU()]
            width = out
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.linear(x)[..., None, None])


def normal(raw: torch.Tensor) -> Normal:
    mean, spread = raw.chunk(2, -1)
    return Normal(mean, softplus(spread) + 0.1)


def stopped(x: Normal) -> Normal:
    return Normal(x.loc.detach(), x.scale.detach())


def nll(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 0.5 * (x - target) ** 2 + HALF_LOG_2PI


class Learner:
    def __init__(self, s: dict[str, Any], device: str):
        self.s, self.device = s, device
        features, hidden = s["belief"] + s["state"], s["hidden"]
        head = [features, *[hidden] * s["head_layers"], 1]
        self.world = nn.ModuleDict(
            {
                "encoder": encoder(s["colours"], s["channels"]),
                "into": mlp(s["state"] + s["actions"], hidden),
                "gru": nn.GRUCell(hidden, s["belief"]),
                "prior": mlp(s["belief"], hidden, 2 * s["state"]),
                "posterior": mlp(s["belief"] + s["embedding"], hidden, 2 * s["state"]),
                "reward": mlp(*head),
            }
        ).to(device)
        self.nets = {"world": self.world, "value": mlp(*head).to(device)}
        self.nets["actor"] = mlp(features, *[hidden] * s["actor_layers"], 2 * s["actions"]).to(device)
        if s["probe"]:
            depth, kernels = s["channels"][0], s["kernels"]
            self.nets["probe"] = Decoder(features, s["embedding"], depth, kernels, s["colours"]).to(device)
        self.slow_value = copy.deepcopy(self.nets["value"]).requires_grad_(False)
        self.log_beta = torch.tensor(math.log(1e-2), device=device, requires_grad=True)
        self.opt = {k: torch.optim.Adam(net.parameters(), lr=3e-4) for k, net in self.nets.items()}
        self.dual = torch.optim.Adam([self.log_beta], lr=1e-4)
        side = s["side"]
        self.frames = torch.randint(0, 256, (ROWS, STREAMS, s["colours"], side, side), dtype=torch.uint8, device=device)
        self.actions = torch.rand(ROWS, STREAMS, s["actions"], device=device) * 2 - 1
        self.rewards = torch.rand(ROWS, STREAMS, device=device)
        self.first = (torch.arange(ROWS, device=device) % 100 == 0)[:, None].expand(ROWS, STREAMS)
        at, weight = np.polynomial.hermite_e.hermegauss(s["entropy_nodes"])
        self.nodes = torch.tensor(at, dtype=torch.float32, device=device)
        self.weights = torch.tensor(weight / weight.sum(), dtype=torch.float32, device=device)

    def sample(self) -> tuple[torch.Tensor, ...]:
        start = torch.randint(ROWS - self.s["chunk"] + 1, (self.s["batch"],), device=self.device)
        rows = start + torch.arange(self.s["chunk"], device=self.device)[:, None]
        stream = torch.randint(STREAMS, (self.s["batch"],), device=self.device).expand_as(rows)
        frames = self.frames[rows[1:], stream[1:]].float() * (2 / 255) - 1
        joined = (~self.first[rows[1:], stream[1:]]).float()
        return frames, self.actions[rows[:-1], stream[:-1]], self.rewards[rows[1:], stream[1:]], joined

    def policy(self, features: torch.Tensor) -> Normal:
        policy = normal(self.nets["actor"](features))
        return Normal(5 * torch.tanh(policy.loc / 5), policy.scale)

    def entropy(self, policy: Normal) -> torch.Tensor:
        u = policy.loc[..., None] + policy.scale[..., None] * self.nodes
        stretched = (2 * (math.log(2) - u - softplus(-2 * u)) * self.weights).sum(-1)
        return (policy.entropy() + stretched).sum(-1)

    def filter(
        self, embedded: torch.Tensor, actions: torch.Tensor, joined: torch.Tensor
    ) -> tuple[torch.Tensor, Normal, Normal]:
        w, n = self.world, embedded.shape[1]
        h, s = (torch.zeros(n, self.s[k], device=self.device) for k in ("belief", "state"))
        features, posterior, prior = [], [], []
        for e, a, on in zip(embedded, actions, joined[..., None], strict=True):
            h = w["gru"](nn.functional.elu(w["into"](torch.cat([s * on, a * on], -1))), h * on)
            prior.append(w["prior"](h))
            posterior.append(w["posterior"](torch.cat([h, e], -1)))
            s = normal(posterior[-1]).rsample()
            features.append(torch.cat([h, s], -1))
        return torch.stack(features), normal(torch.stack(posterior)), normal(torch.stack(prior))

    def step(self, name: str, loss: torch.Tensor) -> None:
        self.opt[name].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.nets[name].parameters(), 100.0)
        self.opt[name].step()

    def learn_world(self) -> torch.Tensor:
        frames, actions, rewards, joined = self.sample()
        embedded = self.world["encoder"](frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        features, posterior, prior = self.filter(embedded, actions, joined)
        reward = (nll(self.world["reward"](features)[..., 0], rewards) * joined).mean()
        kl = lambda q, p: kl_divergence(q, p).sum(-1).mean()
        k = 5 / 6
        divergence = k * kl(stopped(posterior), prior) + (1 - k) * kl(posterior, stopped(prior))
        violation = divergence - self.s["target_kl"]
        self.step("world", reward + self.log_beta.exp().detach() * violation)
        self.dual.zero_grad()
        (-self.log_beta * violation.detach()).backward()
        self.dual.step()
        if self.s["probe"]:
            shown = self.nets["probe"](features.detach().flatten(0, 1)).unflatten(0, frames.shape[:2])
            self.step("probe", nll(shown, frames).sum((2, 3, 4)).mean())
        return features.detach().flatten(0, 1)

    def learn_behaviour(self, start: torch.Tensor) -> None:
        s, w = self.s, self.world
        frozen = [*w.parameters(), *self.nets["value"].parameters()]
        for p in frozen:
            p.requires_grad_(False)
        h, z = start.split([s["belief"], s["state"]], -1)
        features: list[torch.Tensor] = []
        for _ in range(s["horizon"] - 1):
            policy = self.policy(torch.cat([h, z], -1).detach())
            h = w["gru"](nn.functional.elu(w["into"](torch.cat([z, torch.tanh(policy.rsample())], -1))), h)
            z = normal(w["prior"](h)).rsample()
            features.append(torch.cat([h, z], -1))
        stacked = torch.stack(features)
        reward, value = w["reward"](stacked)[..., 0], self.slow_value(stacked)[..., 0]
        target = [value[-1]]
        for j in reversed(range(len(reward) - 1)):
            target.append(reward[j] + 0.99 * (0.05 * value[j + 1] + 0.95 * target[-1]))
        returns = torch.stack(target[::-1])
        actor = -(returns + 3e-4 * self.entropy(self.policy(stacked))).mean()
        self.step("actor", actor)
        for p in frozen:
            p.requires_grad_(True)
        self.step("value", nll(self.nets["value"](stacked[:-1].detach())[..., 0], returns[:-1].detach()).mean())
        with torch.no_grad():
            for p, t in zip(self.nets["value"].parameters(), self.slow_value.parameters(), strict=True):
                t.lerp_(p, 0.02)

    def update(self) -> None:
        self.learn_behaviour(self.learn_world())


if __name__ == "__main__":
    serve(Learner)
