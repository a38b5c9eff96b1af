"""The paper's theory: linear regression and distances of networks."""
