"""Proposes the settings of a pipeline for a data set and a machine, and measures what they cost.

data = fingerprint(workspace.artifact("data"))                       # what the data set is like
machine = this_machine("auto")                                       # what there is to compute with
plan = make_plan(data, machine, Wishes())                            # a pure function: no torch, no files
measured = measure(plan, workspace.artifact("data"), machine)        # a few real training steps, in a subprocess
plan = make_plan(data, machine, Wishes(budget_s=1800), measured)     # batch and iterations that fit
"""
