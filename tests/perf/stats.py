# SPDX-License-Identifier: BSD-3-Clause
"""Medians, and how far to trust them."""
import math
import random
import statistics

CHANGED = 1.5  # turns of one round between which the cores' distance changed by more are not compared
FAR_NS = 150   # two cores that share a cache are nearer


def median(values):
    return statistics.median(values) if values else math.nan


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def log_ratios(rounds, of, to):
    """How much faster side `of` is than side `to` in each round (logarithms), where the two compare."""
    logs = []
    for turns in rounds:
        a, b = turns.get(of), turns.get(to)
        if not a or not b or not a["cycles"] or not b["cycles"]:
            continue
        away = (a["ns_away"], b["ns_away"])
        if min(away) > 0 and max(away) / min(away) > CHANGED:
            continue
        logs.append(math.log(b["cycles"] / a["cycles"]))
    return logs


def longer(key):
    """As log_ratios(), for the times `key`: how much longer side `of` takes."""
    def logs(rounds, of, to):
        return [math.log(turns[of][key] / turns[to][key]) for turns in rounds if of in turns and to in turns]
    return logs


def ratio(starts, of, to, logs=log_ratios, draws=1000):
    """
    (ratio, low, high, rounds): the median over all rounds of all starts, and its 95 % interval by the bootstrap. Starts
    are drawn first, then rounds of each: a process that was started again is another sample of how memory came to lie.
    """
    samples = [s for s in (logs(rounds, of, to) for rounds in starts) if s]
    if not samples:
        return math.nan, math.nan, math.nan, 0
    rng = random.Random(1)
    centre = median([median(s) for s in samples])
    drawn = sorted(median([median(rng.choices(s, k=len(s))) for s in rng.choices(samples, k=len(samples))])
                   for _ in range(draws))
    return (math.exp(centre), math.exp(drawn[int(draws * 0.025)]), math.exp(drawn[int(draws * 0.975)]),
            sum(map(len, samples)))


def by_distance(starts):
    """{"near" and "far": the rounds in which the cores were}; nothing where that did not change."""
    states = {"near": [], "far": []}
    for rounds in starts:
        away = [median([turn["ns_away"] for turn in turns.values()]) for turns in rounds]
        states["near"].append([r for r, ns in zip(rounds, away) if 0 < ns < FAR_NS])
        states["far"].append([r for r, ns in zip(rounds, away) if ns >= FAR_NS])
    return states if all(any(rounds) for rounds in map(lambda s: [r for r in s if r], states.values())) else {}


def cycles_of(starts, side):
    """Median cycles per packet of a side, and its quartiles over the rounds."""
    values = [turns[side]["cycles"] for rounds in starts for turns in rounds if turns.get(side, {}).get("cycles")]
    return median(values), quantile(values, 0.25), quantile(values, 0.75)
