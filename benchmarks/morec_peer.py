"""PyTorch's side of `benchmarks/morec.py`: an ensemble's fit, filtered rollouts and SAC as one writes them eagerly, members and
snapshots as batches of matrices.

    PYTHON benchmarks/morec_peer.py THREADS

Commands come as lines of JSON on the standard input, the answers are seconds by the clock and of the processor.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu, silu, softplus

N, M = 17, 6


class Stack(torch.nn.Module):
    """Networks side by side: x [E, B, n] to [E, B, widths[-1]]."""

    def __init__(self, count: int, *widths: int, activate: Any = relu) -> None:
        super().__init__()
        pairs = list(zip(widths, widths[1:], strict=False))
        make = lambda a, b: torch.nn.Parameter(torch.randn(count, a, b) / (2 * a**0.5))
        self.w = torch.nn.ParameterList([make(a, b) for a, b in pairs])
        self.b = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(count, 1, b)) for _, b in pairs])
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        for i, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            x = torch.baddbmm(b, x, w)
            x = self.activate(x) if i + 1 < len(self.w) else x
        return x


class Ensemble(Stack):
    """Normal distributions of (change, reward)."""

    def __init__(self, count: int, *widths: int) -> None:
        super().__init__(count, *widths[:-1], 2 * widths[-1], activate=silu)
        self.high, self.low = (torch.nn.Parameter(torch.full((widths[-1],), v)) for v in (0.5, -10.0))

    def normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, v = super().forward(x).chunk(2, -1)
        v = self.high - softplus(self.high - v)
        return mean, self.low + softplus(v - self.low)


DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)


class Fit:
    """A pass over bootstraps, and the look at what is held out."""

    def __init__(self, rows: int, hidden: list[int]) -> None:
        self.x, self.y = torch.randn(rows, N + M), 0.1 * torch.randn(rows, N + 1)
        held = min(int(0.2 * rows), 1_000)
        order = torch.randperm(rows)
        self.held, rest = order[:held], order[held:]
        self.own = rest[torch.randint(len(rest), (7, len(rest)))]
        self.model = Ensemble(7, N + M, *hidden, N + 1)
        self.adam = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.decay = (*DECAY[: len(hidden)], DECAY[-1])

    def __call__(self) -> None:
        mixed = torch.stack([own[torch.randperm(len(own))] for own in self.own])
        model, z = self.model, (self.x - self.x.mean(0)) / self.x.std(0)
        for at in mixed.split(256, 1):
            mean, v = model.normal(z[at])
            loss = (((mean - self.y[at]) ** 2) * torch.exp(-v) + v).mean((1, 2)).sum()
            loss = loss + sum(0.5 * c * (w**2).sum() for c, w in zip(self.decay, model.w, strict=True))
            loss = loss + 0.01 * (model.high.sum() - model.low.sum())
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
        with torch.no_grad():
            mean, _ = model.normal(z[self.held].expand(7, -1, -1))
            float(((mean - self.y[self.held]) ** 2).mean((1, 2)).min())


class Scorer(Stack):
    """Discriminators, and what is typical of their logits."""

    def __init__(self, count: int, n: int, m: int, widths: list[int]) -> None:
        super().__init__(count, 2 * n + m, *widths, 1)
        self.real, self.generated = torch.ones(count, 1), -torch.ones(count, 1)

    def reward(self, obs: Tensor, action: Tensor, new: Tensor) -> Tensor:
        """[K, B] of ``obs`` [B, n] and ``new`` [K, B, n]."""
        k, b, n = new.shape
        wide = lambda x: x.expand(k, *x.shape)
        given = torch.cat([0.8 * wide(obs), wide(action), 0.8 * (new - obs)], -1).reshape(1, k * b, -1)
        d = self(given.expand(len(self.real), -1, -1))[..., 0]
        y = 2 * (torch.minimum(torch.maximum(d, self.generated), self.real) - self.generated)
        y = y / (self.real - self.generated + 1e-7) - 1
        return -torch.log(1 - torch.sigmoid(y).mean(0) + 1e-9).reshape(k, b)


def net(*widths: int) -> torch.nn.Sequential:
    layers: list[Any] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def sample(actor: Any, obs: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = actor(obs).chunk(2, -1)
    log_std = log_std.clamp(-5, 2)
    noise = torch.randn_like(mean)
    raw = mean + log_std.exp() * noise
    action = torch.tanh(raw)
    log_prob = -0.5 * noise**2 - log_std - 0.9189385 - torch.log(1 - action**2 + 1e-6)
    return action, log_prob.sum(-1)


class Rollout:
    """Filtered steps with a price for uncertainty."""

    def __init__(
        self, streams: int, steps: int, snapshots: int, widths: list[int], hidden: list[int], actor: list[int]
    ) -> None:
        self.model, self.scorer = Ensemble(7, N + M, *hidden, N + 1), Scorer(snapshots, N, M, widths)
        self.actor, self.starts, self.streams, self.steps = net(N, *actor, 2 * M), torch.randn(1_000, N), streams, steps

    @torch.no_grad()
    def __call__(self) -> None:
        obs = self.starts[torch.randint(len(self.starts), (self.streams,))]
        alive = torch.ones(self.streams, dtype=torch.bool)
        for _ in range(self.steps):
            action, _ = sample(self.actor, obs)
            mean, v = self.model.normal(torch.cat([obs, action], -1).expand(7, -1, -1))
            std = torch.exp(0.5 * v)
            drawn = mean[:5] + std[:5] * torch.randn(2, 5, *mean.shape[1:])
            drawn = (drawn.flatten(0, 1) + torch.nn.functional.pad(obs, (0, 1))).clamp(-25, 25)
            score = self.scorer.reward(obs, action, drawn[..., :-1])
            pick = torch.distributions.Categorical(logits=score.T / 0.1).sample()
            taken = drawn[pick, torch.arange(self.streams)]
            reward = taken[:, -1] - 0.5 * (std**2).sum(-1).sqrt().amax(0)
            stop = score[pick, torch.arange(self.streams)] < -1e9
            float(reward[0])
            obs = torch.where(alive[:, None], taken[:, :-1], obs)
            alive = alive & ~stop


class Scores:
    def __init__(self, obs: int, action: int, states: int, candidates: int, repeat: int) -> None:
        self.scorer, self.repeat = Scorer(10, obs, action, [64, 64, 64]), repeat
        self.given = torch.randn(states, obs), torch.randn(states, action), torch.randn(candidates, states, obs)

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(self.repeat):
            self.scorer.reward(*self.given)


class Updates:
    """SAC on 12 real and 244 imagined transitions."""

    def __init__(self, count: int, batch: int, hidden: list[int], rows: int) -> None:
        draw = lambda: [torch.randn(rows, N), torch.tanh(torch.randn(rows, M)), torch.randn(rows), torch.randn(rows, N)]
        self.real, self.made, self.count, self.batch, self.rows = draw(), draw(), count, batch, rows
        self.actor, self.critics = net(N, *hidden, 2 * M), Stack(2, N + M, *hidden, 1)
        self.target = Stack(2, N + M, *hidden, 1)
        self.log_alpha = torch.zeros((), requires_grad=True)
        adam = torch.optim.Adam
        self.adams = adam(self.actor.parameters(), 1e-4), adam(self.critics.parameters(), 3e-4), adam([self.log_alpha], 1e-4)

    def q(self, critics: Any, obs: Tensor, action: Tensor) -> Tensor:
        return critics(torch.cat([obs, action], -1).expand(2, -1, -1))[..., 0]

    def __call__(self) -> None:
        actor_adam, critic_adam, alpha_adam = self.adams
        for _ in range(self.count):
            r, m = (torch.randint(self.rows, (k,)) for k in (12, self.batch - 12))
            obs, action, reward, new = (torch.cat([a[r], b[m]]) for a, b in zip(self.real, self.made, strict=True))
            alpha = self.log_alpha.exp().clamp(max=1).detach()
            with torch.no_grad():
                after, log_prob = sample(self.actor, new)
                y = reward + 0.99 * (self.q(self.target, new, after).min(0).values - alpha * log_prob)
            loss = ((self.q(self.critics, obs, action) - y) ** 2).mean(1).sum()
            self.step(critic_adam, loss)
            chosen, log_prob = sample(self.actor, obs)
            self.step(actor_adam, (alpha * log_prob - self.q(self.critics, obs, chosen).min(0).values).mean())
            self.step(alpha_adam, -(self.log_alpha * (log_prob.detach() - M)).mean())
            with torch.no_grad():
                for t, p in zip(self.target.parameters(), self.critics.parameters(), strict=True):
                    t.lerp_(p, 0.005)

    def step(self, adam: Any, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()


WORK = {"fit": Fit, "rollout": Rollout, "scorer": Scores, "updates": Updates}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    made: dict[str, Any] = {}
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        what = asked.pop("what")
        made = made if what in made else {what: WORK[what](**asked)}
        begun, cpu = time.perf_counter(), time.process_time()
        made[what]()
        print(json.dumps([time.perf_counter() - begun, time.process_time() - cpu]), flush=True)


if __name__ == "__main__":
    main()
