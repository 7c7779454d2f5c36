"""What happens beside the training: scoring, pictures, meters, checkpoints."""
