"""Frozen values that every other part speaks of. This package imports nothing else of Quell.

Times are float seconds since the Unix epoch (UTC) unless a name says otherwise; durations are float seconds.
"""
