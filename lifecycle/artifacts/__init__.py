"""What runs wrote, itself: where it is kept, how it comes in, and by which links it is read."""
