"""A recorded session answered again, from its record alone.

`session` and `answers` read it, `script` finds the call meant, `outside` stands in for the world, `gate` joins them.

Every check is made anew; nothing is run, sent or revealed, because nothing that could is ever made.
"""
