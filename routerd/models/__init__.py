"""Users' own models: where they lie (`repository`), what they declare (`config`), how they are read (`loading`).

A model file is read in workers alone; the daemon sees file names, sizes and what a worker tells it (`description`).
"""
