"""What signals at random moments cost a training: with keepstep, and with what others have for it."""
