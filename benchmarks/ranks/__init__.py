"""What a save of several ranks costs a training that is divided by FSDP2: keepstep and others, in turns, in one run."""
