"""What one does with a trained model: finding the codes of pictures, and directions of attributes among codes."""
