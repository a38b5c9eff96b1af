"""What is done with a trained network: predict, evaluate, export."""
