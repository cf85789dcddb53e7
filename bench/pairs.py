"""Measurements in pairs: how far the median of their ratios may be trusted."""
import statistics


def interval(ratios, chosen):
    """The interval that holds the median with 95%, by bootstrap with the random numbers `chosen`."""
    medians = sorted(statistics.median(chosen.choices(ratios, k=len(ratios))) for _ in range(1000))
    return medians[25], medians[-26]
