"""What a machine with a GPU does, measured in under ten minutes, as one table.

    python -m tests.gpu                       # everything, most telling first
    python -m tests.gpu --only training --only peer
    python -m tests.gpu --tiny --device cpu   # only whether it runs

The images are drawn and the weights random: nothing is downloaded. Every step is a process of its own with a time
limit, a copy of one that has loaded torch; one that fails is a line of the table. Figures, errors and logs lie in
`.bench/gpu/`, from the moment they are known.
"""
