"""What people write, read into the model with the place of everything wrong in it. SEMANTICS sections 0.3, 2, 3, 5, 7.

nodes.py turns text into nodes that know their place; reader.py takes values out of nodes and collects problems; each
kind of document is one module and one line of the table in load.py.
"""
