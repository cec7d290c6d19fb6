"""Observations against policies: what deviates, what is learned of a workload, and how a policy takes in what deviated.

Pure: no I/O and no clock. The controller feeds it batches of observations. SEMANTICS section 5; docs/guardian.md.
"""
