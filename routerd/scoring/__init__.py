"""How good routing is: tasks that every backend ran, what a chooser made of them, and the figures that follow."""
