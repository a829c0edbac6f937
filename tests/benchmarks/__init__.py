"""Speed, measured: each benchmark pairs the code of semiseg with the plain way of doing the same.

python -m tests.benchmarks                         # everything at full size: minutes
python -m tests.benchmarks --scale quick --only crf

A table goes to the screen, every figure to `.bench/benchmarks.json`. Both sides of a pair run in one process on the
same input, in turn, several times; the figure is the median, and their results are compared.
"""
