"""The process that works: claims, runs attempts, records outcomes, sweeps. Kept empty of imports:

the guardian process (`engine.worker.guardian`) lives in this package and must start small and fast.
"""
