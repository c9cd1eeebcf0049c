"""PyTorch's side of `benchmarks/modem_v2.py`: its planner and update, written as the equations are, batched over streams, an
actor and a pair of critics at a time, in an interpreter of its own, which needs neither rlx nor JAX.

    PYTHON benchmarks/modem_v2_peer.py THREADS DEVICE        # commands: see torch_peer.py; {"plan": 16} decides for 16 streams
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch_peer import serve


def mlp(n: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, out))


def critic(n: int, hidden: int) -> nn.Sequential:
    first = nn.Linear(n, hidden), nn.LayerNorm(hidden), nn.Tanh()
    return nn.Sequential(*first, nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1))


def encoder(s: dict[str, Any]) -> nn.Sequential:
    width, z = s["encoder_hidden"], s["latent"]
    half = lambda n: (nn.Linear(n, width), nn.ELU(), nn.Linear(width, z))
    if not s["side"]:
        return nn.Sequential(*half(s["state"]), *half(z))
    trunk: list[nn.Module] = []
    n = s["channels"]
    for kernel in (7, 5, 3, 3)[: 4 if s["side"] >= 39 else 3]:
        trunk += [nn.Conv2d(n, 32, kernel, 2), nn.ReLU()]
        n = 32
    trunk.append(nn.Flatten())
    flat = nn.Sequential(*trunk)(torch.zeros(1, s["channels"], s["side"], s["side"])).shape[1]
    return nn.Sequential(*trunk, nn.Linear(flat, z), *half(z))


def shifted(x: Any, pad: int) -> Any:
    """Pictures [B, C, side, side], each moved by up to ``pad`` pixels each way."""
    b, c, side, _ = x.shape
    around = nn.functional.pad(x.float(), (pad,) * 4, mode="replicate")
    corner = torch.randint(0, 2 * pad + 1, (2, b, 1))
    rows, columns = corner[:, :, 0, None] + torch.arange(side)
    where = torch.arange(b)[:, None, None, None], torch.arange(c)[None, :, None, None]
    return around[(*where, rows[:, None, :, None], columns[:, None, None, :])]


def noisy(mean: Any, std: float) -> Any:
    x = mean + (std * torch.randn_like(mean)).clamp(-0.3, 0.3)
    return x + (x.clamp(-1 + 1e-6, 1 - 1e-6) - x).detach()


class Agent:
    def __init__(self, s: dict[str, Any], device: str):
        torch.set_default_device(device)
        self.s = s
        pair = s["latent"] + s["actions"]
        self.cloned, self.encoder = encoder(s), encoder(s)
        self.dynamics, self.reward = mlp(pair, s["hidden"], s["latent"]), mlp(pair, s["hidden"], 1)
        self.policies = nn.ModuleList(mlp(s["latent"], s["hidden"], s["actions"]) for _ in range(s["ensemble_size"] + 1))
        self.critics = nn.ModuleList(
            nn.ModuleList(critic(pair, s["hidden"]) for _ in range(2)) for _ in range(s["ensemble_size"] + 1)
        )
        self.old_encoder, self.old_critics = copy.deepcopy(self.encoder), copy.deepcopy(self.critics)
        self.learned = [*self.encoder.parameters(), *self.dynamics.parameters(), *self.reward.parameters()]
        self.learned += list(self.critics.parameters())
        self.adam = torch.optim.Adam(self.learned, lr=3e-4)
        self.adams = [torch.optim.Adam(p.parameters(), lr=3e-4) for p in self.policies[1:]]
        h, b = s["horizon"], s["batch"]
        self.obs, self.rewards = torch.randn(h + 1, b, s["state"]), torch.randn(h, b)
        if s["side"]:
            self.obs = torch.randint(0, 256, (h + 1, b, s["channels"], s["side"], s["side"]), dtype=torch.uint8)
        self.actions = torch.rand(h, b, s["actions"]) * 2 - 1
        self.count = 0

    def act(self, i: int, z: Any) -> Any:
        return noisy(torch.tanh(self.policies[i](z)), 0.1)

    @torch.no_grad()
    def plan(self, streams: int) -> Any:
        s, m = self.s, self.s["ensemble_size"]
        z = self.encoder(torch.randn(streams, s["state"]))
        z = z[:, None, None].expand(streams, m, s["samples"] // m, s["latent"])
        total, power, first = 0.0, 1.0, None
        for _ in range(s["horizon"]):
            action = torch.stack([self.act(i + 1, z[:, i]) for i in range(m)], 1)
            first = action if first is None else first
            x = torch.cat([z, action], -1)
            total, z, power = total + power * self.reward(x)[..., 0], self.dynamics(x), power * 0.95
        proposed = [self.act(j + 1, z) for j in range(m)]
        estimates = []
        for i in range(m):
            x = torch.stack([torch.cat([z, proposed[j]], -1) for j in range(m) if j != i])
            estimates += [total + power * q(x)[..., 0].max(0).values for q in self.critics[i + 1]]
        value = torch.stack(estimates).flatten(2)
        value = value.mean(0) - 10 * value.std(0)
        best = value.topk(s["elites"], -1)
        weight = torch.softmax(0.5 * best.values, -1)
        chosen = first.flatten(1, 2).gather(1, best.indices[..., None].expand(-1, -1, s["actions"]))
        mean = (weight[..., None] * chosen).sum(1)
        std = ((weight[..., None] * (chosen - mean[:, None]) ** 2).sum(1)).sqrt().clamp(0.1, 2)
        picked = chosen[torch.arange(streams), torch.multinomial(weight, 1)[:, 0]]
        return (picked + std * torch.randn_like(std)).clamp(-1, 1)

    def update(self) -> None:
        h, m = self.s["horizon"], self.s["ensemble_size"]
        obs = self.looked()
        z, loss, latents = self.encoder(obs[0]), 0.0, []
        with torch.no_grad():
            cloned = self.over(self.cloned, obs)
            target, online = self.over(self.old_encoder, obs[1:]), self.over(self.encoder, obs[1:])
        for t in range(h):
            latents.append(z.detach())
            x = torch.cat([z, self.actions[t]], -1)
            x0 = torch.cat([cloned[t], self.actions[t]], -1)
            value = 0.0
            for i in range(m + 1):
                with torch.no_grad():
                    after = cloned[t + 1] if i == 0 else online[t]
                    pair = torch.cat([after, self.act(i, after)], -1)
                    y = self.rewards[t] + 0.95 * torch.minimum(*[q(pair)[..., 0] for q in self.old_critics[i]])
                value = value + sum((q(x0 if i == 0 else x)[..., 0] - y) ** 2 for q in self.critics[i])
            reward = (self.reward(x)[..., 0] - self.rewards[t]) ** 2
            z = self.dynamics(x)
            loss = loss + 0.5**t * (2 * ((z - target[t]) ** 2).mean(-1) + 0.5 * reward + 0.1 * value)
        latents.append(z.detach())
        self.adam.zero_grad(set_to_none=True)
        (loss.mean() / h).backward()
        torch.nn.utils.clip_grad_norm_(self.learned, 10.0)
        self.adam.step()
        self.improve(torch.stack(latents))
        self.count += 1
        if self.count % 2 == 0:
            with torch.no_grad():
                for old, new in ((self.old_encoder, self.encoder), (self.old_critics, self.critics)):
                    for a, b in zip(old.parameters(), new.parameters(), strict=True):
                        a.lerp_(b, 0.01)

    def looked(self) -> Any:
        if not self.s["side"]:
            return self.obs
        return (shifted(self.obs.flatten(0, 1), self.s["side"] // 21) / 255).reshape(self.obs.shape)

    def over(self, encode: nn.Module, obs: Any) -> Any:
        """Of all times and rows at once."""
        return encode(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])

    def improve(self, z: Any) -> None:
        rho = 0.5 ** torch.arange(len(z))
        for i, adam in enumerate(self.adams, 1):
            adam.zero_grad(set_to_none=True)
            self.critics[i].requires_grad_(False)
            pair = torch.cat([z, self.act(i, z)], -1)
            (-(rho * torch.minimum(*[q(pair)[..., 0] for q in self.critics[i]]).mean(1)).sum()).backward()
            torch.nn.utils.clip_grad_norm_(self.policies[i].parameters(), 10.0)
            adam.step()
            self.critics[i].requires_grad_(True)


if __name__ == "__main__":
    serve(Agent)
