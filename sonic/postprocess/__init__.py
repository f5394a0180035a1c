"""What is done to finished frames and sound: smoothing, lip-sync correction, interpolation."""
