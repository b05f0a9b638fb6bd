"""A policy with a memory, trained by PPO on whole rollouts, in which episodes end wherever they end.

    python examples/recurrent_policy.py

The environment is a corridor with a fork (B. Bakker 2001, NIPS, the T-maze): the first observation of an episode says
whether the prize lies left or right, all others look alike, and at the fork, some steps later, the policy has to turn.
Without a memory it finds the prize half of the time. Environments step side by side, each begins a new episode as soon
as one is over, and a rollout cuts them at the same time, so a row of a minibatch holds the end of one episode, a few
others and the beginning of the last. One line keeps them apart, forward and backward: `resets=done`.

Needs NumPy and recurra only. (PPO: J. Schulman et al. 2017, arXiv:1707.06347; advantages: 2016, arXiv:1506.02438.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import recurra
from recurra import training

ENVIRONMENTS, STEPS, HIDDEN = 64, 32, 24
SHORTEST, LONGEST = 4, 12  # corridors
EPOCHS, MINIBATCHES = 3, 4
DISCOUNT, TRACE, CLIP, ENTROPY, VALUE = 0.98, 0.95, 0.2, 0.01, 0.5

Array = Any


class Corridors:
    """Many corridors. Observations: prize left, prize right, fork; actions: left, right, which mean something there."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.rng, self.left = rng, np.zeros(count, bool)
        self.length, self.at = np.zeros(count, int), np.zeros(count, int)
        self.begin(np.ones(count, bool))

    def begin(self, which: Array) -> None:
        """New episodes."""
        self.left = np.where(which, self.rng.random(len(which)) < 0.5, self.left)
        self.length = np.where(which, self.rng.integers(SHORTEST, LONGEST + 1, len(which)), self.length)
        self.at = np.where(which, 0, self.at)

    def observe(self) -> Array:
        first = self.at == 0
        seen = np.stack([first & self.left, first & ~self.left, self.at == self.length - 1], -1)
        return seen.astype("float32")

    def step(self, action: Array) -> tuple[Array, Array]:
        """Rewards, and which episodes are over; these begin anew."""
        over = self.at == self.length - 1
        reward = np.where(over, np.where((action == 0) == self.left, 1.0, -1.0), 0.0)
        self.at = self.at + 1
        self.begin(over)
        return reward, over


class Policy:
    """A GRU, with logits of both actions and a value behind it."""

    def __init__(self, seed: int) -> None:
        self.layer = recurra.GRU(3, HIDDEN, seed=seed)
        self.head = recurra.Linear(HIDDEN, 3, seed=seed)
        self.params = {"layer": self.layer.state_dict(), "head": self.head.state_dict()}
        self.optimizers = [training.Adam(params, lr=3e-3) for params in self.params.values()]

    def train_on(self, batch: Rollout) -> None:
        """One step of the optimiser."""
        h, _, tape = self.layer.forward(batch.seen, batch.state, resets=batch.done)  # episodes do not see each other
        out, head_tape = self.head.forward(h)
        gradients = head_tape.backward(batch.slope(out))
        below = tape.backward(gradients.x)
        training.clip_grad_norm([below.params, gradients.params], 0.5)
        for optimizer, found in zip(self.optimizers, (below.params, gradients.params), strict=True):
            optimizer.step(found)
        self.layer.load_state_dict(self.params["layer"])
        self.head.load_state_dict(self.params["head"])


@dataclass
class Rollout:
    """What was seen and done, [T, B] each, and what training needs of it."""

    seen: Array
    done: Array  # whether an episode begins at this step
    state: Array  # the GRU's, before the first one
    action: Array
    logp: Array
    advantage: Array
    target: Array  # of the value

    def of(self, rows: Array) -> Rollout:
        """Some environments, over all steps."""
        state = self.state[:, rows]
        rest = (self.action, self.logp, self.advantage, self.target)
        return Rollout(self.seen[:, rows], self.done[:, rows], state, *(array[:, rows] for array in rest))

    def slope(self, out: Array) -> Array:
        """The gradient of PPO's loss by logits and value, [T, B, 3]."""
        logs = log_softmax(out[..., :2])
        p, chosen = np.exp(logs), np.eye(2)[self.action]
        ratio = np.exp((logs * chosen).sum(-1) - self.logp)
        better = (self.advantage - self.advantage.mean()) / (self.advantage.std() + 1e-8)
        free = np.where(better > 0, ratio < 1 + CLIP, ratio > 1 - CLIP)  # elsewhere the clipped ratio is the smaller
        d_logits = -(free * ratio * better)[..., None] * (chosen - p)
        d_logits += ENTROPY * p * (logs - (p * logs).sum(-1, keepdims=True))
        d_value = VALUE * (out[..., 2] - self.target)
        return (np.concatenate([d_logits, d_value[..., None]], -1) / self.action.size).astype("float32")


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class Collector:
    """Runs a policy in all environments; state and episodes go on from rollout to rollout."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.world = Corridors(ENVIRONMENTS, self.rng)
        self.state = np.zeros((1, ENVIRONMENTS, HIDDEN), "float32")
        self.done = np.ones(ENVIRONMENTS, bool)

    def rollout(self, policy: Policy) -> tuple[Rollout, float]:
        """And the share of the episodes that ended with the prize."""
        stream = policy.layer.stream(ENVIRONMENTS, head=policy.head)
        stream.state = start = self.state
        kept: dict[str, list[Array]] = {name: [] for name in ("seen", "done", "action", "logp", "value", "reward")}
        for _ in range(STEPS):
            seen = self.world.observe()
            out = stream.step(seen, resets=self.done)
            logs = log_softmax(out[:, :2])
            action = (self.rng.random(ENVIRONMENTS) > np.exp(logs[:, 0])).astype(int)
            reward, over = self.world.step(action)
            logp = logs[np.arange(ENVIRONMENTS), action]
            for values, value in zip(kept.values(), (seen, self.done, action, logp, out[:, 2], reward), strict=True):
                values.append(value)
            self.done = over
        self.state = stream.state
        following = stream.step(self.world.observe(), resets=self.done)[:, 2]  # the value of what comes next
        all_of = {name: np.stack(values) for name, values in kept.items()}
        advantage = advantages(all_of["reward"], all_of["value"], all_of["done"], following, self.done)
        rest = (all_of["action"], all_of["logp"], advantage, advantage + all_of["value"])
        ended = all_of["reward"] != 0
        return Rollout(all_of["seen"], all_of["done"], start, *rest), float((all_of["reward"] > 0).sum() / ended.sum())


def advantages(reward: Array, value: Array, done: Array, following: Array, last_done: Array) -> Array:
    """Generalised advantages: what came of a step beyond the value, within its episode."""
    found, running = np.zeros_like(reward), np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        goes_on = ~(done[t + 1] if t + 1 < len(reward) else last_done)
        error = reward[t] + DISCOUNT * goes_on * following - value[t]
        running = error + DISCOUNT * TRACE * goes_on * running
        found[t], following = running, value[t]
    return found


def train(rollouts: int = 40, seed: int = 0, report: Any = print) -> list[float]:
    """The share of episodes that end with the prize, of each rollout."""
    policy, collector = Policy(seed), Collector(seed)
    shares = []
    for number in range(rollouts):
        rollout, share = collector.rollout(policy)
        shares.append(share)
        if number % 10 == 9:
            report(f"rollout {number + 1:4}: the prize in {100 * np.mean(shares[-10:]):5.1f} % of the episodes")
        for _ in range(EPOCHS):
            for rows in np.split(collector.rng.permutation(ENVIRONMENTS), MINIBATCHES):
                policy.train_on(rollout.of(rows))
    return shares


if __name__ == "__main__":
    train()
