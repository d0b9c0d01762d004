"""Statistics of an evaluation: means, differences and slopes with their intervals, pass@k, Student's t."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

__all__ = [
    "Interval",
    "Over",
    "best_at_k",
    "holm",
    "mean_interval",
    "paired_difference",
    "paired_p",
    "pass_at_k",
    "running_mean",
    "score_interval",
    "slope_interval",
    "t_quantile",
    "wilson",
]

Over = Literal["problems", "samples"]

MAX_TERMS = 20_000  # the continued fraction needs about sqrt(df) terms: enough far beyond a million degrees of freedom
MAX_DF = 1e7  # above it t differs from the normal by less than 1e-6, so the quantile at MAX_DF serves
MIN_TAIL = 1e-100  # keeps t² within a float even for one degree of freedom


class Interval(NamedTuple):
    """An estimate with the bounds of its confidence interval; the bounds are infinite where the data cannot tell."""

    mean: float
    low: float
    high: float

    def clipped(self, low: float, high: float) -> "Interval":
        """The same interval with its bounds (and mean) held within a range."""
        return Interval(*(min(max(value, low), high) for value in self))


def mean_interval(per_problem: Sequence[Sequence[float]], confidence: float = 0.95, *, bounded: bool = False) -> Interval:
    """The average score (avg@n) with a t-interval whose unit is the problem, not the sample.

    Samples of one problem resemble each other, so a problem enters as its mean: every problem weighs the
    same whatever its number of samples, and the spread is that of the problem means (ddof 1).
    One problem: its mean with infinite bounds, since nothing is known of other problems. Zero variance: an
    interval of width 0, which says that no two problems differed and not that the truth is known.
    `bounded` clips to [0, 1]; for one problem that gives the whole range.

    Raises: ValueError when there is no problem or a problem has no sample.
    Source: arXiv 2411.00640, clustered standard errors, for clusters weighted equally.

    >>> mean_interval([[1, 0], [1, 1], [0, 0], [1, 0]]).mean
    0.5
    >>> round(mean_interval([[1], [0]]).high, 4)  # 0.5 + 12.7062 * 0.5: the standard error is 0.5, with one degree of freedom
    6.8531
    >>> mean_interval([[1, 0]], bounded=True)
    Interval(mean=0.5, low=0.0, high=1.0)
    """
    interval = _interval_of([_mean(scores) for scores in per_problem], confidence)
    return interval.clipped(0.0, 1.0) if bounded else interval


def score_interval(per_problem: Sequence[Sequence[float]], confidence: float = 0.95, *, over: Over = "problems") -> Interval:
    """avg@n of scores from 0 to 1, with an interval for one of two questions.

    `problems`: the score on a new test like this one. Problems are drawn, samples are drawn for each; the variance v is that
    of the problem means (ddof 1) over P, with P - 1 degrees of freedom. One problem gives [0, 1].
    `samples`: the score on this very test, were it sampled for ever. v is the mean within-problem variance (ddof 1) over the
    problem's n and over P, with Σ(n - 1) degrees of freedom. A problem with a single sample tells nothing of its spread
    and is taken to have the mean one of the others; where all have one the interval is [0, 1].

    Bounds are Wilson's with Student's t at the effective sample size m(1 - m)/v; where no two scores differ, at P or at the
    number of samples. So they stay within [0, 1] and do not collapse at 0 and 1. Simulated coverage: docs/evaluation.md.

    Raises: ValueError when there is no problem or a problem has no sample.
    Source: Wilson's score interval; Dean and Pagano, J. Surv. Stat. Methodol. 3 (2015), for the effective sample size.

    >>> [round(x, 4) for x in score_interval([[1], [1], [1], [0]])]  # v = 0.25 / 4, effective size 3, t = 3.1824
    [0.75, 0.1307, 0.9836]
    >>> [round(x, 4) for x in score_interval([[1, 0], [0, 0]], over="samples")]  # v = 0.25 / 4, effective size 3, t = 4.3027
    [0.25, 0.0095, 0.9208]
    """
    means = [_mean(scores) for scores in per_problem]
    mean, count = _mean(means), len(means)
    if over == "problems":
        size, df = count, count - 1
        variance = math.fsum((m - mean) ** 2 for m in means) / df / count if df else 0.0
    else:
        size, df = sum(map(len, per_problem)), sum(len(scores) - 1 for scores in per_problem)
        own = [
            math.fsum((s - m) ** 2 for s in scores) / (len(scores) - 1)
            for scores, m in zip(per_problem, means, strict=True)
            if len(scores) > 1
        ]
        if not own:
            return Interval(mean, 0.0, 1.0)
        known, usual = iter(own), _mean(own)
        variance = math.fsum((next(known) if len(s) > 1 else usual) / len(s) for s in per_problem) / count**2
    return wilson(mean, variance, size, df, confidence)


def wilson(mean: float, variance: float, size: float, df: float, confidence: float) -> Interval:
    """Wilson's interval of a mean between 0 and 1 with this variance; `size` is the effective sample size where that is 0."""
    if df < 1:
        return Interval(mean, 0.0, 1.0)
    t = t_quantile(0.5 + confidence / 2, df)
    spread = mean * (1.0 - mean)
    size = spread / variance if variance > 0.0 and spread > 0.0 else size
    shrink = 1.0 + t * t / size
    middle = (mean + t * t / (2 * size)) / shrink
    half = t / shrink * math.sqrt(spread / size + t * t / (4 * size * size))
    return Interval(mean, max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half)))


def paired_difference(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    confidence: float = 0.95,
    *,
    ids: tuple[Sequence[str], Sequence[str]] | None = None,
    bounded: bool = False,
) -> Interval:
    """The mean of a minus b over problems, with a t-interval of the per-problem differences.

    Both hold the same problems in the same order; `ids` (those of a, those of b) lets that be checked.
    The numbers of samples may differ. One problem or zero variance: as in `mean_interval`. `bounded` clips to [-1, 1].

    Raises: ValueError when the problems are not the same, or there is none.
    Source: arXiv 2411.00640, paired differences.

    >>> paired_difference([[1], [1], [1]], [[0], [0], [0]])
    Interval(mean=1.0, low=1.0, high=1.0)
    >>> paired_difference([[1, 1], [0]], [[0, 1], [0]]).mean
    0.25
    """
    if len(a) != len(b):
        raise ValueError(
            f"a has {len(a)} problems, b has {len(b)}; a paired difference needs the same problems in the same order"
        )
    if ids is not None and list(ids[0]) != list(ids[1]):
        raise ValueError("the problem ids of a and b differ; a paired difference needs the same problems in the same order")
    interval = _interval_of([_mean(x) - _mean(y) for x, y in zip(a, b, strict=True)], confidence)
    return interval.clipped(-1.0, 1.0) if bounded else interval


def paired_p(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The two-sided p of no difference, by the t-test whose interval `paired_difference` gives; 1 for a single problem.

    No less than 2 / 2^k for the k problems that differ: as many signs may fall alike by chance.

    >>> round(paired_p([[1], [1], [1], [0]], [[0], [0], [0], [0]]), 4)  # t = 3 gives 0.0577, but three signs alike are a quarter
    0.25
    """
    each = [_mean(x) - _mean(y) for x, y in zip(a, b, strict=True)]
    mean, df = _mean(each), len(each) - 1
    if df < 1:
        return 1.0
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in each) / df / len(each))
    if not mean:
        return 1.0
    fewest = min(1.0, 2.0 * 0.5 ** sum(v != 0.0 for v in each))  # what no test by signs can go below
    return max(fewest, 2.0 * _upper_tail(abs(mean) / error, df) if error else 0.0)


def holm(ps: Sequence[float]) -> list[float]:
    """The p of each of several comparisons, corrected so that the chance of any false one stays what it says.

    Source: Holm, Scand. J. Stat. 6 (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, least = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        found[at] = least
    return found


def slope_interval(xs: Sequence[float], ys: Sequence[float], confidence: float = 0.95) -> Interval:
    """The least-squares slope of ys on xs with its t-interval (n - 2 degrees of freedom).

    Fewer than three points, or all xs equal: infinite bounds, around 0 where no slope can be drawn.
    Points exactly on a line give width 0. The interval supposes independent errors: slowly wandering ys make it too narrow.

    Raises: ValueError when xs and ys differ in length.

    >>> slope_interval([0, 1, 2], [1, 3, 5])
    Interval(mean=2.0, low=2.0, high=2.0)
    >>> slope_interval([0, 1], [0, 1])
    Interval(mean=1.0, low=-inf, high=inf)
    """
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} xs and {len(ys)} ys; a slope needs one y for each x")
    if not xs or min(xs) == max(xs):
        return Interval(0.0, -math.inf, math.inf)
    x_mean, y_mean = _mean(xs), _mean(ys)
    spread = math.fsum((x - x_mean) ** 2 for x in xs)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    df = len(xs) - 2
    if df < 1:
        return Interval(slope, -math.inf, math.inf)
    residual = math.fsum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = t_quantile(0.5 + confidence / 2, df) * math.sqrt(residual / df / spread)
    return Interval(slope, slope - half, slope + half)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased chance that at least one of k samples is correct, from c correct ones among n.

    Raises: ValueError unless 0 <= c <= n and 1 <= k <= n.
    Source: arXiv 2107.03374, equation 1.

    >>> pass_at_k(4, 1, 2)  # of the 6 pairs, 3 hold the correct one
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n {n}, c {c}, k {k}; expected 0 <= c <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def best_at_k(scores: Sequence[float], k: int) -> float:
    """The unbiased mean of the best of k samples, from n scores: over all subsets of k, which for scores of 0 and 1 is pass@k.

    Raises: ValueError unless 1 <= k <= n.

    >>> round(best_at_k([0.0, 0.5, 1.0], 2), 6)  # the best of the three pairs are 0.5, 1 and 1
    0.833333
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"n {n}, k {k}; expected 1 <= k <= n")
    below = sorted(scores)
    every = math.comb(n, k)
    return math.fsum(math.comb(i, k - 1) / every * below[i] for i in range(k - 1, n))


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and its neighbours up to `reach` places away, of fewer at the ends.

    >>> running_mean([0, 3, 6, 0], reach=1)
    [1.5, 3.0, 3.0, 3.0]
    """
    return [_mean(values[max(i - reach, 0) : i + reach + 1]) for i in range(len(values))]


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """The value below which a Student t variable with df degrees of freedom stays with probability p.

    Relative error below 1e-6: the upper tail, an incomplete beta function, is inverted by bisection.

    Raises: ValueError unless p is 1e-100 or more away from 0 and 1, and df >= 1.

    >>> round(t_quantile(0.975, 1), 4), round(t_quantile(0.975, 4), 4), t_quantile(0.5, 3)
    (12.7062, 2.7764, 0.0)
    """
    tail = min(p, 1.0 - p)
    if not (tail >= MIN_TAIL and df >= 1.0):
        raise ValueError(f"p {p}, df {df}; expected p between 0 and 1, and df >= 1")
    if p == 0.5:
        return 0.0
    df, low, high = min(df, MAX_DF), 0.0, 1.0
    while _upper_tail(high, df) > tail:
        low, high = high, 2.0 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _upper_tail(middle, df) > tail else (low, middle)
    return math.copysign((low + high) / 2, p - 0.5)


def _mean(values: Sequence[float]) -> float:
    if not len(values):
        raise ValueError("a problem has no sample, or there is no value: nothing to average")
    return math.fsum(values) / len(values)


def _interval_of(values: Sequence[float], confidence: float) -> Interval:
    mean, df = _mean(values), len(values) - 1
    if df < 1:
        return Interval(mean, -math.inf, math.inf)
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / df / len(values))
    half = t_quantile(0.5 + confidence / 2, df) * error
    return Interval(mean, mean - half, mean + half)


def _upper_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0: half the regularised incomplete beta function at df / (df + t²)."""
    a, b = df / 2, 0.5
    x, rest = df / (df + t * t), t * t / (df + t * t)  # 1 - x would cancel for small t
    if x <= 0.0 or rest <= 0.0:
        return 0.0 if x <= 0.0 else 0.5
    scale = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * _log(x, rest) + b * _log(rest, x))
    if x < (a + 1) / (a + b + 2):
        return 0.5 * scale * _beta_fraction(a, b, x) / a
    return 0.5 - 0.5 * scale * _beta_fraction(b, a, rest) / b


def _log(x: float, rest: float) -> float:
    """The logarithm of x = 1 - rest, exact for x close to 1 as well."""
    return math.log1p(-rest) if rest < 0.5 else math.log(x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (NIST DLMF 8.17.22), by Lentz's method."""
    tiny = 1e-300
    d = 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    c, value = 1.0, d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            step = d * c
            value *= step
        if abs(step - 1.0) < 1e-15:
            break
    return value
