"""Frozen values that every other part speaks of. This package imports nothing else of Quell.

Times are float seconds since the Unix epoch (UTC) unless a name says otherwise; durations are float seconds.

gc=False: a frozen value is made of values that were there before it, so no cycle goes through it and the collector need
not look at it. There are some hundred thousand of them a second.
"""
