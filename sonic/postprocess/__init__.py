"""What is done to finished frames and sound: smoothing, lip sync, a mouth shut in silence, other rates, composition."""
