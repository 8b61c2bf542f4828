"""What is beside a run: who looks at it, who is told of it, who may steer it.

::

    observers    all of them, and a run with all of them
    control      the socket                       vitals       live numbers
    exposition   Prometheus' port and file        metrics      a run's counts as its metrics
    telemetry    OpenTelemetry's collector        traces, histograms    spans and histograms of result lines

Invariants: what one of them lacks is said before anything is sent; none of their faults, nor their end, changes
anything about the run.
"""
