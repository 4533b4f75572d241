"""A method, a refiner and a data set for wordmask."""
