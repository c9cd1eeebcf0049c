"""d3rlpy's side of `benchmarks/offline.py`, in an interpreter of its own, which needs neither rlx nor JAX.

    PYTHON benchmarks/offline_peer.py ROWS.npz THREADS

ROWS.npz holds transitions in order: obs [N, n], action [N, m], reward, terminal and timeout [N]. Commands come as lines of JSON
on the standard input, answers go as lines to the standard output::

    {"make": "iql", "seed": 0, "updates": 1000, "settings": {...}}   a new learner
    {"update": 100}                                                  updates, sampling included; answer: seconds, and of the CPU
    {"act": [[...], ...]}                                            the answer: actions without noise
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import d3rlpy
import numpy as np
import torch


def rows(path: str) -> Any:
    """The dataset as d3rlpy has it."""
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in ("obs", "action", "reward", "terminal", "timeout")}
    return d3rlpy.dataset.MDPDataset(
        columns["obs"], columns["action"], columns["reward"], columns["terminal"], columns["timeout"],
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )  # fmt: skip


def learner(dataset: Any, make: str, seed: int, updates: int, settings: dict[str, Any]) -> Any:
    """``settings``: hidden, batch, lr, normalize_obs, normalize_returns."""
    d3rlpy.seed(seed)
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=settings["hidden"])
    shared: dict[str, Any] = {"batch_size": settings["batch"]}
    if settings["normalize_obs"]:
        shared["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler()
    if settings["normalize_returns"]:
        shared["reward_scaler"] = d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)
    if make == "bc":
        config: Any = d3rlpy.algos.BCConfig(learning_rate=settings["lr"], encoder_factory=encoder, **shared)
    else:
        rates = {"actor_learning_rate": settings["lr"], "critic_learning_rate": settings["lr"]}
        nets = {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
        if make == "iql":
            cosine = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=updates)
            adam = d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=cosine)
            more = {"value_encoder_factory": encoder, "actor_optim_factory": adam}
            config = d3rlpy.algos.IQLConfig(**rates, **nets, **more, **shared)
        else:
            config = d3rlpy.algos.TD3PlusBCConfig(**rates, **nets, **shared)
    made = config.create(device="cpu")
    made.build_with_dataset(dataset)
    for scaler in (made.observation_scaler, made.reward_scaler):  # as its `fit` does
        if scaler is not None and not scaler.built:
            scaler.fit_with_transition_picker(dataset.episodes, dataset.transition_picker)
    return made


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed goes elsewhere
    dataset, made, batch = rows(path), None, 0
    say = lambda value: print(json.dumps(value), file=answers, flush=True)
    say({"d3rlpy": d3rlpy.__version__, "torch": torch.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        if "make" in asked:
            made, batch = learner(dataset, **asked), asked["settings"]["batch"]
            say(True)
        elif "update" in asked:
            begun, cpu = time.perf_counter(), time.process_time()
            for _ in range(asked["update"]):
                made.update(dataset.sample_transition_batch(batch))
            say([time.perf_counter() - begun, time.process_time() - cpu])
        else:
            say(made.predict(np.asarray(asked["act"], np.float32)).tolist())


if __name__ == "__main__":
    main()
