"""Ways to work through the cells of a matrix, behind one door."""
